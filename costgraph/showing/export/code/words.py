"""Words that each language keeps for itself, and names that printed code uses."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Keywords of C and C++, what <math.h> and <complex.h> define (I!), and our own names.
C = _words(
    """
    auto break case char const continue default do double else enum extern float for goto if
    inline int long register restrict return short signed sizeof static struct switch typedef
    union unsigned void volatile while asm bool true false nullptr typeof constexpr alignas alignof
    static_assert thread_local
    and and_eq bitand bitor catch class compl const_cast delete dynamic_cast explicit export friend
    mutable namespace new not not_eq operator or or_eq private protected public reinterpret_cast
    static_cast template this throw try typeid typename using virtual wchar_t xor xor_eq
    I complex imaginary acos asin atan atan2 cos sin tan acosh asinh atanh cosh sinh tanh exp exp2
    expm1 frexp ilogb ldexp log log10 log1p log2 logb modf scalbn scalbln cbrt fabs hypot pow sqrt
    erf erfc lgamma tgamma gamma ceil floor nearbyint rint lrint llrint round lround llround trunc
    fmod remainder remquo copysign nan nextafter nexttoward fdim fmax fmin fma j0 j1 jn y0 y1 yn
    signgam drem significand scalb finite isinf isnan isfinite isnormal signbit fpclassify div
    abs labs main NULL NAN INFINITY HUGE_VAL DOMAIN SING OVERFLOW UNDERFLOW PLOSS TLOSS MAXFLOAT
    FP_NAN FP_INFINITE FP_ZERO FP_SUBNORMAL FP_NORMAL M_E M_PI out sum_max unix linux i386
    cabs carg cimag creal conj cproj cexp clog cpow csqrt
    exp10 pow10 double_t float_t sincos
    """
)

#: Keywords, global objects, and our own names.
JAVASCRIPT = _words(
    """
    abstract arguments await async boolean break byte case catch char class const continue debugger
    default delete do double else enum eval export extends false final finally float for function
    get goto if implements import in instanceof int interface let long native new null of package
    private protected public return set short static super switch synchronized this throw throws
    transient true try typeof undefined var void volatile while with yield NaN Infinity Math Number
    Array Object String globalThis window document sumMax sumSmooth
    """
)

#: Keywords, functions and constants of Base, and our own names.
JULIA = _words(
    """
    abstract as baremodule begin break catch const continue do else elseif end export false finally
    for function global if import in isa let local macro module mutable new outer primitive public
    quote return struct true try type using var where while ccall im pi e Inf NaN nothing missing
    max min ceil floor trunc sqrt exp log abs div float Float64 Int Base Core Main sum_max error
    """
)
