"use strict";

// Sends the samples of the microphone to the page in parts of a tenth of a second, 16-bit.
class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.samples = new Int16Array(sampleRate / 10);
    this.length = 0;
  }

  process([[channel]]) {
    for (const value of channel ?? []) {
      this.samples[this.length++] = Math.max(-1, Math.min(1, value)) * 32767;
      if (this.length === this.samples.length) {
        this.port.postMessage(this.samples.slice());
        this.length = 0;
      }
    }
    return true;
  }
}
registerProcessor("microphone", Microphone);
