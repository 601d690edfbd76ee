"""Means with spread, intervals over a few seeds, fitted rates, paired answers."""

import math

# Two-sided 95 % quantiles of Student's t by degrees of freedom; 1.96 beyond.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}


def mean(values):
    return sum(values) / len(values)


def deviation(values):
    """Of a sample; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    middle = mean(values)
    return math.sqrt(sum((v - middle) ** 2 for v in values) / (len(values) - 1))


def interval(values):
    """Half the width of the 95 % interval of the mean; None for a single value."""
    if len(values) < 2:
        return None
    return STUDENT.get(len(values) - 1, 1.96) * deviation(values) / math.sqrt(len(values))


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def slope(points):
    """Least squares: (slope, intercept, sum of squared residuals)."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    mx, my = mean(xs), mean(ys)
    sxx = sum((x - mx) ** 2 for x in xs)
    b = sum((x - mx) * (y - my) for x, y in points) / sxx if sxx else 0.0
    a = my - b * mx
    return b, a, sum((y - a - b * x) ** 2 for x, y in points)


def decay_rate(curve):
    """The c of loss = floor + a t^-c, least squares: floors are tried, the rest is a line in the logarithms.

    `curve` is [[tokens, loss], ...]. The first tenth, in which the learning rate rises, is left out. None if too short.
    """
    points = [(t, loss) for t, loss in curve if t > 0 and loss > 0][len(curve) // 10 :]
    if len(points) < 5:
        return None
    lowest = min(loss for _, loss in points)
    best = None
    for share in range(0, 100, 2):
        floor = lowest * share / 100
        b, a, _ = slope([(math.log(t), math.log(loss - floor)) for t, loss in points])
        wrong = sum((floor + math.exp(a) * t**b - loss) ** 2 for t, loss in points)
        if best is None or wrong < best[0]:
            best = (wrong, -b, floor)
    return {"rate": best[1], "floor": best[2]}


def paired_difference(ours, theirs):
    """Of two strings of 0 and 1 for the same questions: the difference of the shares of 1, and its standard error."""
    count = min(len(ours), len(theirs))
    gained = sum(a == "1" and b == "0" for a, b in zip(ours, theirs, strict=False))
    lost = sum(a == "0" and b == "1" for a, b in zip(ours, theirs, strict=False))
    difference = (gained - lost) / count
    return difference, math.sqrt(max(gained + lost - (gained - lost) ** 2 / count, 0)) / count
