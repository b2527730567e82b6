#!/bin/bash
# Runs a recipe on two simulated hosts: network namespaces with one address each. Exit code 0 if both processes succeed.
# Needs root and iproute2.
#
#   sudo benchmarks/hosts.sh RECIPE --output DIR [more options of `arkasr run`]
set -eu
export OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=eth0

clean() { ip netns del arkasr-1 2>/dev/null || true; ip netns del arkasr-2 2>/dev/null || true; }
clean
trap 'kill $(jobs -p) 2>/dev/null || true; clean' EXIT
ip netns add arkasr-1
ip netns add arkasr-2
ip link add eth0 netns arkasr-1 type veth peer name eth0 netns arkasr-2
for host in 1 2; do
  ip -n arkasr-$host address add 10.77.0.$host/24 dev eth0
  ip -n arkasr-$host link set eth0 up
  ip -n arkasr-$host link set lo up
done

for host in 1 2; do
  ip netns exec arkasr-$host torchrun --nnodes 2 --node-rank $((host - 1)) --nproc-per-node 1 \
    --master-addr 10.77.0.1 --master-port 29500 -m arkasr run "$@" --resume &
done
status=0
for job in $(jobs -p); do wait "$job" || status=$?; done
exit $status
