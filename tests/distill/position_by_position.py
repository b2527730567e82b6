"""The objective written a second time, one position at a time, with sets, dicts and float64 `math` only.

It follows docs/objective.md and shares no code with arkasr.distill, so the two can be compared.
"""

from dataclasses import dataclass
from math import exp, inf, log


@dataclass
class Position:
    """One position: scores as lists, tokens as ids; `teacher_to_student` holds only mapped ids."""

    student: list[float]
    teacher: list[float]
    teacher_to_student: dict[int, int]
    student_allowed: set[int]
    teacher_allowed: set[int]
    rollout_support: list[int] | None
    generated: int | None


@dataclass
class Chosen:
    support: set[int]
    teacher_top: set[int]
    student_top: set[int]
    valid: bool


def choose(x: Position, top_k: int, support: str) -> Chosen:
    possible_teacher = {i for i in x.teacher_allowed if x.teacher[i] > -inf}
    possible_student = {j for j in x.student_allowed if x.student[j] > -inf}
    shared = {j for i, j in x.teacher_to_student.items() if i in possible_teacher and j in possible_student}
    best_teacher = sorted(possible_teacher, key=lambda i: -x.teacher[i])[:top_k]
    best_student = sorted(possible_student, key=lambda j: -x.student[j])[:top_k]
    teacher_top = {x.teacher_to_student[i] for i in best_teacher if i in x.teacher_to_student} & shared
    student_top = set(best_student if x.rollout_support is None else x.rollout_support) & shared
    generated = {x.generated} & shared
    chosen = {
        "union": teacher_top | student_top | generated,
        "teacher": teacher_top,
        "student": student_top | generated,
        "intersection": teacher_top & student_top,
        "full": shared,
    }[support]
    maps = x.generated is None or x.generated in x.teacher_to_student.values()
    return Chosen(chosen, teacher_top, student_top, len(chosen) >= 2 and maps)


def tail_masses(x: Position, support: set[int]) -> tuple[float, float]:
    student_of = x.teacher_to_student
    teacher = {i: exp(x.teacher[i]) for i in x.teacher_allowed}
    student = {j: exp(x.student[j]) for j in x.student_allowed}
    teacher_tail = sum(weight for i, weight in teacher.items() if student_of.get(i) not in support)
    student_tail = sum(weight for j, weight in student.items() if j not in support)
    return teacher_tail / sum(teacher.values()), student_tail / sum(student.values())


def divergence(x: Position, support: set[int], kind: str, tail: str, temperature: float, beta: float) -> float:
    """τ² D(p, q) on a fixed support."""
    teacher_of = {j: i for i, j in x.teacher_to_student.items()}
    p = {j: exp(x.teacher[teacher_of[j]] / temperature) for j in support}
    q = {j: exp(x.student[j] / temperature) for j in support}
    if tail == "bucket":
        inside = {teacher_of[j] for j in support}
        p_rest = sum(exp(x.teacher[i] / temperature) for i in x.teacher_allowed - inside)
        q_rest = sum(exp(x.student[j] / temperature) for j in x.student_allowed - support)
        infinite = (kind == "forward_kl" and q_rest == 0) or (kind == "reverse_kl" and p_rest == 0)
        if not infinite:
            p["rest"], q["rest"] = p_rest, q_rest
    p = {v: weight / sum(p.values()) for v, weight in p.items()}
    q = {v: weight / sum(q.values()) for v, weight in q.items()}
    if kind == "forward_kl":
        value = kl(p, q)
    elif kind == "reverse_kl":
        value = kl(q, p)
    else:
        mixture = {v: beta * p[v] + (1 - beta) * q[v] for v in p}
        value = beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)
    return temperature**2 * value


def kl(a: dict, b: dict) -> float:
    return sum(a[v] * log(a[v] / b[v]) for v in a if a[v] > 0)


def gradient(x: Position, loss, step: float = 1e-5) -> list[float]:
    """Central differences of `loss(position)` in the student's scores."""
    slopes = []
    for index, score in enumerate(x.student):
        if score == -inf:
            slopes.append(0.0)
            continue
        values = []
        for shifted in (score + step, score - step):
            student = [*x.student[:index], shifted, *x.student[index + 1 :]]
            values.append(loss(Position(**{**vars(x), "student": student})))
        slopes.append((values[0] - values[1]) / (2 * step))
    return slopes
