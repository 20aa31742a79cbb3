"""Python text of the sum of a maximum of affine arms, for code that stands alone.

Affine arms form a convex upper envelope: sorted by slope, each is the largest on
one interval, bounded by its crossings with the steeper ones. The time depends on
the number of arms, not on the length of the range; see :mod:`.runtime`.
"""

SUM_MAX = '''\
def sum_max(lower, upper, arms):
    """Sum over t = lower ... upper of the largest a + b*t, for arms (a, b)."""
    total, start = 0, lower
    while start <= upper:
        a, b = max(arms, key=lambda arm: (arm[0] + arm[1] * start, arm[1]))
        end = upper
        for c, d in arms:
            if d > b:  # a steeper arm takes over from the crossing on
                end = min(end, max(start, -((c - a) // (d - b)) - 1))
        n = end - start + 1
        total += n * a + b * (n * (start + end) // 2)
        start = end + 1
    return total
'''

# Written out without a key function, which compilers do not know.
SUM_MAX_COMPILED = '''\
def sum_max(lower, upper, arms):
    """Sum over t = lower ... upper of the largest a + b*t, for arms (a, b)."""
    total = 0.0
    start = lower
    while start <= upper:
        a, b = arms[0]
        for c, d in arms:
            here, best = c + d * start, a + b * start
            if here > best or (here == best and d > b):
                a, b = c, d
        end = upper
        for c, d in arms:
            if d > b:  # a steeper arm takes over from the crossing on
                end = min(end, max(start, np.ceil((a - c) / (d - b)) - 1.0))
        total += (end - start + 1.0) * (a + b * ((start + end) / 2.0))
        start = end + 1.0
    return total
'''

SUM_MAX_ARRAYS = '''\
def sum_max(lower, upper, arms):
    """Sum over t = lower ... upper of the largest a + b*t, for arms (a, b) of arrays."""
    total, start = 0.0, lower
    while np.any(start <= upper):
        a, b = arms[0]
        best = a + b * start
        for c, d in arms[1:]:
            here = c + d * start
            better = (here > best) | ((here == best) & (d > b))
            a, b, best = np.where(better, c, a), np.where(better, d, b), np.maximum(best, here)
        end = upper
        for c, d in arms:  # a steeper arm takes over from the crossing on
            steeper = d > b
            last = np.ceil((a - c) / np.where(steeper, d - b, 1.0)) - 1.0
            end = np.where(steeper, np.minimum(end, np.maximum(last, start)), end)
        n = np.maximum(end - start + 1.0, 0.0)
        total = total + n * (a + b * ((start + end) / 2.0))
        start = np.maximum(start, end + 1.0)
    return total
'''
