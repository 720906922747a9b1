"""Whether something grows: the slope of Theil and Sen, which a few wild values do not move, with an interval."""

import math
import statistics

# Of the normal distribution: 95 %.
Z = 1.96


def theil_sen(points):
    """By how much y grows with x: the median slope of all pairs, and its interval of 95 % (Sen 1968, by Kendall's variance without ties in y,
    which is the wider one). None for less than eight points. Neighbours in time are not independent, so the true interval is wider."""
    if len(points) < 8:
        return None
    slopes = sorted((b - y) / (a - x) for i, (x, y) in enumerate(points) for a, b in points[i + 1:] if a != x)
    count, pairs = len(points), len(slopes)
    spread = Z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low, high = int((pairs - spread) / 2), math.ceil((pairs + spread) / 2)
    return {"slope": statistics.median(slopes), "low": slopes[max(0, low)], "high": slopes[min(pairs - 1, high)]}
