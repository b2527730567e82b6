import pytest
import torch

from arkasr.distill import fused, fused_union_topk_kl, union_topk_kl
from arkasr.distill.diagnostics import support_diagnostics
from arkasr.recognizers import head as output_head
from arkasr.recognizers import head_scores

POSITIONS, STUDENT_VOCAB, TEACHER_VOCAB = 23, 70, 61
OPTIONS = {"top_k": 5, "temperature": 1.3, "beta": 0.3}


@pytest.fixture(autouse=True)
def many_tiles(monkeypatch):
    monkeypatch.setattr(output_head, "SMALLEST_TILE_TOKENS", 13)
    monkeypatch.setitem(output_head.TILE_SCORES, "cpu", 1)
    monkeypatch.setattr(output_head, "GROUP_TOKENS", 4)
    monkeypatch.setitem(head_scores.COPIED_ROWS, "cpu", 70)
    monkeypatch.setattr(fused, "DENSE_POSITIONS", 6)


def problem(seed=0, dtype=torch.float64):
    """Hidden states, heads, and everything that a recipe hands over: partial map, blocked tokens, rollouts."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    hidden = normal(POSITIONS, 8).requires_grad_(), normal(STUDENT_VOCAB, 8).requires_grad_()
    teacher = normal(POSITIONS, 11), normal(TEACHER_VOCAB, 11)
    table = torch.randperm(STUDENT_VOCAB, generator=generator)[:TEACHER_VOCAB]
    table[torch.rand(TEACHER_VOCAB, generator=generator) < 0.2] = -1
    student_allowed = torch.rand(STUDENT_VOCAB, generator=generator) < 0.9
    logits = (hidden[0] @ hidden[1].T).detach().masked_fill(~student_allowed, -torch.inf)
    support = logits.topk(5).indices
    support[::4, 3:] = -1
    generated = logits.argmax(1)
    generated[::5] = -1
    return (*hidden, *teacher), {
        "teacher_to_student": table,
        "student_allowed": student_allowed,
        "teacher_allowed": torch.rand(TEACHER_VOCAB, generator=generator) < 0.9,
        "student_support": support,
        "generated": generated,
    }


def gradients(result, tensors):
    weights = torch.linspace(0.5, 2, POSITIONS, dtype=torch.float64)
    return torch.autograd.grad((result.per_position * weights).sum(), tensors[:2], allow_unused=False)


def dense(tensors, **options):
    return union_topk_kl(tensors[0] @ tensors[1].T, tensors[2] @ tensors[3].T, **options)


@pytest.mark.parametrize("given", ["everything", "nothing"])
@pytest.mark.parametrize("tail", ["none", "bucket"])
@pytest.mark.parametrize("support", ["union", "teacher", "student", "intersection", "full"])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_equals_the_dense_reference_in_value_and_gradient(kind, support, tail, given):
    tensors, arguments = problem()
    options = OPTIONS | {"divergence": kind, "support": support, "tail": tail}
    options |= arguments if given == "everything" else {}
    expected, found = dense(tensors, **options), fused_union_topk_kl(*tensors, **options)
    assert expected.valid.any()
    for name in ("valid", "support_size", "overlap"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name in ("loss", "per_position", "teacher_tail_mass", "student_tail_mass"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-12)
    diagnosed = support_diagnostics(found, top_k=5)
    for name, values in support_diagnostics(expected, top_k=5).items():
        torch.testing.assert_close(diagnosed[name], values, rtol=1e-9, atol=1e-11, msg=name)
    for ours, theirs in zip(gradients(found, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_upstream_scores_too():
    tensors, arguments = problem(1)
    options = OPTIONS | arguments | {"upstream_scores": True}
    expected, found = dense(tensors, **options), fused_union_topk_kl(*tensors, **options)
    torch.testing.assert_close(found.per_position, expected.per_position)


def test_what_is_known_already_spares_the_passes_over_the_vocabularies(monkeypatch):
    tensors, arguments = problem(2)
    del arguments["student_support"]
    expected = dense(tensors, **OPTIONS, **arguments)
    student = output_head.top_tokens(tensors[0], tensors[1], arguments["student_allowed"], 5, torch.float64)
    teacher = output_head.top_tokens(tensors[2], tensors[3], arguments["teacher_allowed"], 5, torch.float64)
    monkeypatch.setattr(fused, "top_tokens", None)
    found = fused_union_topk_kl(*tensors, **OPTIONS, **arguments, student_top=student, teacher_top=teacher)
    for name in ("per_position", "student_tail_mass", "teacher_tail_mass"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_compared_in_single_precision(dtype):
    tensors, arguments = problem(3, dtype)
    found = fused_union_topk_kl(*tensors, **OPTIONS, **arguments)
    assert found.per_position.dtype == torch.float32
    found.loss.backward()
    assert tensors[0].grad.dtype == tensors[1].grad.dtype == dtype
    expected = dense(tensors, **OPTIONS, **arguments)
    torch.testing.assert_close(found.loss, expected.loss, rtol=0.05 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)


def test_no_positions_and_no_valid_ones():
    tensors, _ = problem()
    nothing = fused_union_topk_kl(tensors[0][:0], tensors[1], tensors[2][:0], tensors[3])
    assert nothing.loss == 0
    none = torch.full((POSITIONS,), -1)
    found = fused_union_topk_kl(*tensors, generated=none)
    assert found.loss == 0
    for gradient in torch.autograd.grad(found.loss, tensors[:2]):
        assert not gradient.any()


def test_no_more_than_a_tile_of_logits_is_ever_there():
    """Peak memory of the backward pass, counted in elements: far less than positions times vocabulary."""
    positions, vocabulary, width = 64, 60_000, 4
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), keywords=None):
            nonlocal largest
            result = function(*arguments, **(keywords or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    hidden = torch.randn(positions, width, requires_grad=True)
    head = torch.randn(vocabulary, width, requires_grad=True)
    with Watch():
        found = fused_union_topk_kl(hidden, head, torch.randn(positions, width), torch.randn(vocabulary, width))
        found.loss.backward()
    assert head.grad is not None
    assert largest < positions * vocabulary / 10


@pytest.mark.parametrize("blocked", [slice(0, 30), slice(40, None)])
def test_tiles_without_an_allowed_token(blocked):
    """The published 0.6B blocks the last 12,288 tokens of its head."""
    tensors, arguments = problem(4)
    arguments["student_allowed"][blocked] = False
    arguments["teacher_allowed"][blocked] = False
    del arguments["student_support"], arguments["generated"]
    expected, found = dense(tensors, **OPTIONS, **arguments), fused_union_topk_kl(*tensors, **OPTIONS, **arguments)
    assert expected.valid.any()
    diagnosed = support_diagnostics(found, top_k=5)
    for name, values in support_diagnostics(expected, top_k=5).items():
        torch.testing.assert_close(diagnosed[name], values, rtol=1e-9, atol=1e-11, msg=name)


def test_half_precision_operands_lose_nothing_more_on_the_way():
    """Scores and gradients of bf16 states and heads are those of the same numbers in float64, rounded once."""
    tensors, arguments = problem(5, torch.bfloat16)
    exact = [tensor.detach().double() for tensor in tensors]
    for tensor in exact[:2]:
        tensor.requires_grad_()
    expected = dense(exact, **OPTIONS, **arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fused_union_topk_kl(*tensors, **OPTIONS, **arguments)
    torch.testing.assert_close(found.per_position.double(), expected.per_position, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(gradients(found, tensors), gradients(expected, exact), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=2**-7, atol=1e-4)


def test_best_tokens_of_another_number_are_refused():
    tensors, arguments = problem()
    top = output_head.top_tokens(tensors[2], tensors[3], None, 4, torch.float64)
    with pytest.raises(ValueError, match=r"have shape \(23, 4\), expected \(23, 5\)"):
        fused_union_topk_kl(*tensors, **OPTIONS, **arguments, teacher_top=top)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_a_sparse_gradient_of_the_head_is_the_dense_one_and_adds_up_with_an_embeddings(kind):
    (hidden, head, *teacher), arguments = problem()
    read = torch.arange(POSITIONS) % 7

    def head_gradient(sparse):
        states = hidden + torch.nn.functional.embedding(read, head)
        result = fused_union_topk_kl(
            states, head, *teacher, **arguments, **OPTIONS, divergence=kind, sparse_head_gradient=sparse
        )
        alone = fused_union_topk_kl(
            hidden, head, *teacher, **arguments, **OPTIONS, divergence=kind, sparse_head_gradient=sparse
        )
        (tied,) = torch.autograd.grad(result.loss, head)
        (of_head,) = torch.autograd.grad(alone.loss, head)
        return tied, of_head

    expected_tied, expected = head_gradient(False)
    tied, of_head = head_gradient(True)
    assert of_head.is_sparse
    assert len(of_head.values()) < len(head)
    torch.testing.assert_close(of_head.to_dense(), expected)
    assert tied.layout == torch.strided
    torch.testing.assert_close(tied, expected_tied)


@pytest.mark.parametrize(("vocabulary", "top_k"), [(100, 120), (100, 99), (131, 400), (64, 64)])
@pytest.mark.parametrize("tile_tokens", [70, 1024])
def test_more_best_tokens_than_there_are_means_all_of_them(monkeypatch, vocabulary, top_k, tile_tokens):
    monkeypatch.setattr(output_head, "GROUP_TOKENS", 64)
    monkeypatch.setattr(output_head, "SMALLEST_TILE_TOKENS", tile_tokens)
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(rows, 8, generator=generator, dtype=torch.float64) for rows in (3, vocabulary))
    allowed = torch.arange(vocabulary) >= vocabulary // 2
    for mask in (None, allowed):
        scores = hidden @ head.T if mask is None else (hidden @ head.T).masked_fill(~mask, -torch.inf)
        expected = scores.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
        found = output_head.top_tokens(hidden, head, mask, top_k, torch.float64)
        counted = expected.shape[1] if mask is None else min(int(mask.sum()), top_k)
        assert torch.equal(found.ids[:, :counted], expected[:, :counted])
        assert found.ids.max() < vocabulary


@pytest.mark.parametrize("given_in", [torch.float32, torch.bfloat16])
def test_half_precision_rounds_states_and_head_and_nothing_else(given_in):
    """Best tokens, normaliser, entropy and chosen scores are those of the rounded numbers, summed up in float64."""
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(rows, 64, generator=generator).to(given_in) for rows in (50, 3_000))
    exact = hidden.bfloat16().double() @ head.bfloat16().double().T
    with torch.autocast("cpu", torch.bfloat16, enabled=given_in == torch.float32):
        top = output_head.top_tokens(hidden, head, None, 16, torch.float32)
        best = output_head.greedy_tokens(hidden, head, None)
        scores = head_scores.token_scores(hidden, head, top.ids, torch.float32)
    assert torch.equal(top.ids, exact.topk(16).indices)
    assert torch.equal(best, exact.argmax(dim=1))
    probabilities = exact.softmax(dim=1)
    entropy = torch.special.entr(probabilities).sum(dim=1)
    torch.testing.assert_close(top.log_normaliser.double(), exact.logsumexp(dim=1), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(top.entropy.double(), entropy, rtol=1e-4, atol=1e-3)
    masses = (scores - top.log_normaliser[:, None]).exp().sum(dim=1)
    torch.testing.assert_close(masses.double(), probabilities.gather(1, top.ids).sum(dim=1), rtol=1e-4, atol=1e-5)
    assert masses.max() <= 1 + 1e-6


@pytest.mark.parametrize("options", [{}, {"tail": "bucket"}, {"support": "full"}], ids=str)
def test_loss_masses_and_gradient_under_autocast_are_those_of_the_rounded_numbers(options):
    tensors, arguments = problem(5, torch.float32)
    arguments |= options
    rounded = [tensor.detach().bfloat16().double() for tensor in tensors]
    for tensor in rounded[:2]:
        tensor.requires_grad_()
    expected = dense(rounded, **OPTIONS, **arguments)
    with torch.autocast("cpu", torch.bfloat16):
        found = fused_union_topk_kl(*tensors, **OPTIONS, **arguments)
    torch.testing.assert_close(found.per_position.double(), expected.per_position, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.teacher_tail_mass.double(), expected.teacher_tail_mass, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.student_tail_mass.double(), expected.student_tail_mass, rtol=1e-3, atol=1e-5)
    assert torch.equal(found.support_size, expected.support_size)
    for ours, theirs in zip(gradients(found, tensors), gradients(expected, rounded), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=2**-7, atol=1e-4)
