// 16 lanes of float32 in plain C++ over the compiler's vector types. Runs everywhere, and follows the paths of the
// AVX-512 build lane by lane. Included inside the kernels' own namespace; see simd.h.
constexpr int kLanes = 16;
typedef float F __attribute__((vector_size(64)));
typedef float H __attribute__((vector_size(32)));
typedef std::int32_t I __attribute__((vector_size(64)));
using M = std::uint16_t;

HSATTN_INLINE F zero() { return F{}; }
HSATTN_INLINE F set1(float x) { return F{} + x; }
HSATTN_INLINE F load(const float* p) {
  F x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
HSATTN_INLINE void store(float* p, F x) { __builtin_memcpy(p, &x, sizeof x); }
HSATTN_INLINE F add(F a, F b) { return a + b; }
HSATTN_INLINE F sub(F a, F b) { return a - b; }
HSATTN_INLINE F mul(F a, F b) { return a * b; }
#if defined(__aarch64__)
// As four registers of NEON. The compiler may not fuse products and sums by itself.
union Quarters {
  F floats;
  I integers;
  float32x4_t f[4];
  int32x4_t i[4];
};
HSATTN_INLINE F fma(F a, F b, F c) {
  const Quarters x{a}, y{b};
  Quarters sum{c};
  for (int i = 0; i < 4; ++i) sum.f[i] = vfmaq_f32(sum.f[i], x.f[i], y.f[i]);
  return sum.floats;
}
HSATTN_INLINE F minus_product(F a, F b, F c) { return fma(-a, b, c); }
#else
HSATTN_INLINE F fma(F a, F b, F c) { return a * b + c; }
HSATTN_INLINE F minus_product(F a, F b, F c) { return c - a * b; }
#endif
HSATTN_INLINE F max_keep_nan(F floor, F x) { return floor > x ? floor : x; }
HSATTN_INLINE F min_keep_nan(F ceiling, F x) { return ceiling < x ? ceiling : x; }
// Beyond 2^23 every float is an integer already; NaN stays.
HSATTN_INLINE F round_nearest(F x) {
  const F magic = set1(12582912.0F);  // 1.5 * 2^23
  const F small = (x + magic) - magic;
  return (x < 4194304.0F) & (x > -4194304.0F) ? small : x;
}
HSATTN_INLINE F scale_by_power(F x, F exponent) {
  const F e = max_keep_nan(set1(-127.0F), exponent);
  const F bounded = e < 127.0F ? e : set1(127.0F);
  const I biased = (__builtin_convertvector(bounded, I) + 127) << 23;
  F factor;
  __builtin_memcpy(&factor, &biased, sizeof factor);
  return x * factor + (e - bounded) * 0.0F;  // a NaN exponent gives NaN
}
HSATTN_INLINE F round_up(F x) {
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_ceilf(x[i]);
  return x;
}
HSATTN_INLINE float reduce_max(F x) {
  float best = x[0];
  for (int i = 1; i < kLanes; ++i) best = x[i] > best ? x[i] : best;
  return best;
}
// out[r]: the largest lane of x[r], of 4 vectors.
HSATTN_INLINE void store_maxima_of_quad(const F* x, float* out) {
  for (int r = 0; r < 4; ++r) out[r] = reduce_max(x[r]);
}
HSATTN_INLINE M lanes_of(const std::uint8_t* bytes) {
  return static_cast<M>(bytes[0] | (static_cast<unsigned>(bytes[1]) << 8));
}
HSATTN_INLINE F select(M m, F yes, F no) {
  const I bit = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
  return (bit & static_cast<std::int32_t>(m)) != 0 ? yes : no;
}
// p 2^(n - m) in the lanes of `keep`, 0 elsewhere, for integers n and m that 1.5 * 2^23 was added to. Normal results
// only.
HSATTN_INLINE F scale_by_shifted(M keep, F p, F n, F m) {
  typedef std::uint32_t U __attribute__((vector_size(64)));
  const U power = (reinterpret_cast<U>(n) - reinterpret_cast<U>(m)) << 23;
  return select(keep, reinterpret_cast<F>(reinterpret_cast<U>(p) + power), zero());
}
HSATTN_INLINE M bits_of(I comparison) {
  M m = 0;
  for (int i = 0; i < kLanes; ++i) m = static_cast<M>(m | (comparison[i] != 0 ? 1U << i : 0U));
  return m;
}
HSATTN_INLINE M finite(F x) { return bits_of((x < -kMasked) & (x > kMasked)); }
HSATTN_INLINE unsigned bits(M m) { return m; }
HSATTN_INLINE M at_least(F x, F y) { return bits_of(x >= y); }
HSATTN_INLINE M both(M a, M b) { return a & b; }
HSATTN_INLINE M lanes_with_bit(const std::uint8_t* bytes, unsigned bit) {
  M m = 0;
  for (int i = 0; i < kLanes; ++i) m = static_cast<M>(m | (((bytes[i] >> bit) & 1U) << i));
  return m;
}
HSATTN_INLINE F load_units(const float* const* unit, Index offset) {
  F x;
  __builtin_memcpy(&x, unit[0] + offset, 32);
  __builtin_memcpy(reinterpret_cast<char*>(&x) + 32, unit[1] + offset, 32);
  return x;
}
// The next two words of a row, for each of the 8 tokens of a unit.
HSATTN_INLINE F set_step(const float* words) {
  F x;
  for (int i = 0; i < kLanes; ++i) x[i] = words[i % 2];
  return x;
}
// Scores of two units, of which x holds two sums for each token.
HSATTN_INLINE F sums_of_steps(const F* x) {
  F sums;
  for (int i = 0; i < kLanes; ++i) sums[i] = x[i / 8][i % 8 * 2] + x[i / 8][i % 8 * 2 + 1];
  return sums;
}
// A unit whose tokens lie in parts of so many, in different places; two words of each.
template <int kPart>
HSATTN_INLINE F load_parts(const float* const* part, Index offset) {
  float words[kLanes];
  for (int i = 0; i < 8 / kPart; ++i)
    __builtin_memcpy(words + i * 2 * kPart, part[i] + offset, sizeof(float) * 2 * kPart);
  return load(words);
}
HSATTN_INLINE H half_zero() { return H{}; }
HSATTN_INLINE H half_load(const float* p) {
  H x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
HSATTN_INLINE void half_store(float* p, H x) { __builtin_memcpy(p, &x, sizeof x); }
HSATTN_INLINE H add_units(H s, F x) {
  H low, high;
  __builtin_memcpy(&low, &x, sizeof low);
  __builtin_memcpy(&high, reinterpret_cast<const char*>(&x) + 32, sizeof high);
  return (s + low) + high;
}
HSATTN_INLINE H half_mul(H a, float b) { return a * b; }
HSATTN_INLINE I int_zero() { return I{}; }
HSATTN_INLINE I to_fixed_point(F x) { return __builtin_convertvector(round_nearest(x * 1048576.0F), I); }
HSATTN_INLINE I int_add(I a, I b) { return a + b; }
HSATTN_INLINE I integer_bits(F x) { return reinterpret_cast<I>(x); }
HSATTN_INLINE std::int64_t int_sum(I x) {
  std::int64_t sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += static_cast<std::uint32_t>(x[i]);
  return sum;
}
HSATTN_INLINE float sum_of_unit(F x, int u) {
  float q[4];
  for (int i = 0; i < 4; ++i) q[i] = x[8 * u + i] + x[8 * u + 4 + i];
  return (q[0] + q[2]) + (q[1] + q[3]);
}
HSATTN_INLINE H sums_of_units(const F* x) {
  H sums{};
  for (int i = 0; i < 8; ++i) sums[i] = sum_of_unit(x[i / 2], i % 2);
  return sums;
}
HSATTN_INLINE void store_sums(const F* x, float* out, Index stride) {
  for (int i = 0; i < 16; ++i) out[i / 4 * stride + i % 4] = sum_of_unit(x[i], 0) + sum_of_unit(x[i], 1);
}
// Lane r: the largest lane of vector r.
HSATTN_INLINE F maxima_of_rows(const F* x) {
  F maxima;
  for (int r = 0; r < kLanes; ++r) maxima[r] = reduce_max(x[r]);
  return maxima;
}
// Bytes [8][4] as [4][8].
HSATTN_INLINE void transpose_bytes(const std::uint32_t* words, std::uint8_t* bytes) {
  for (int i = 0; i < 32; ++i) bytes[i % 4 * 8 + i / 4] = static_cast<std::uint8_t>(words[i / 4] >> (i % 4 * 8));
}
HSATTN_INLINE M above(F x, F y) { return bits_of(x > y); }
HSATTN_INLINE void mark_lanes(std::uint8_t* bytes, M m, std::uint8_t flag) {
  for (int i = 0; i < kLanes; ++i) bytes[i] = static_cast<std::uint8_t>(bytes[i] | ((m >> i & 1) != 0 ? flag : 0));
}
HSATTN_INLINE Index compress(std::int32_t* out, const std::int32_t* in, M m) {
  Index count = 0;
  for (int i = 0; i < kLanes; ++i) {
    __builtin_memcpy(out + count, in + i, sizeof *in);
    count += m >> i & 1;
  }
  return count;
}
HSATTN_INLINE I int_set1(std::int32_t x) { return I{} + x; }
HSATTN_INLINE F to_float(I x) { return __builtin_convertvector(x, F); }
HSATTN_INLINE I load_byte_units(const std::uint8_t* const* unit, Index offset) {
  I x;
  __builtin_memcpy(&x, unit[0] + offset, 32);
  __builtin_memcpy(reinterpret_cast<char*>(&x) + 32, unit[1] + offset, 32);
  return x;
}
#if defined(__aarch64__)
// Signed bytes times signed ones, which NEON has in every processor: 128 is taken off `bytes`, and 128 times the others
// added again. Two products, each at most 128 * 127 as no signed byte is -128, fit into 16 bits.
template <bool kVnni>
HSATTN_INLINE I add_byte_products(I sum, I bytes, I signed_bytes) {
  const Quarters x{.integers = bytes}, y{.integers = signed_bytes};
  Quarters total{.integers = sum};
  for (int i = 0; i < 4; ++i) {
    const int8x16_t a = veorq_s8(vreinterpretq_s8_s32(x.i[i]), vdupq_n_s8(-128));
    const int8x16_t b = vreinterpretq_s8_s32(y.i[i]);
    const int16x8_t pairs = vpaddq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b));
    const int32x4_t offset = vshlq_n_s32(vpaddlq_s16(vpaddlq_s8(b)), 7);
    total.i[i] = vpadalq_s16(vaddq_s32(total.i[i], offset), pairs);
  }
  return total.integers;
}
#else
typedef std::uint8_t Bytes __attribute__((vector_size(64)));
typedef std::int8_t SignedBytes __attribute__((vector_size(64)));
template <bool kVnni>
HSATTN_INLINE I add_byte_products(I sum, I bytes, I signed_bytes) {
  const auto a = reinterpret_cast<Bytes>(bytes);
  const auto b = reinterpret_cast<SignedBytes>(signed_bytes);
  for (int i = 0; i < 4 * kLanes; ++i) sum[i / 4] += static_cast<std::int32_t>(a[i]) * b[i];
  return sum;
}
#endif
HSATTN_INLINE bool has_vnni() { return false; }
HSATTN_INLINE M lanes_of_word(unsigned word) { return static_cast<M>(word); }
// Pairs of bfloat16. The sum takes the upper products first, then the lower ones, each rounded to float32.
HSATTN_INLINE F and_bits(F x, std::uint32_t mask) {
  return reinterpret_cast<F>(reinterpret_cast<I>(x) & static_cast<std::int32_t>(mask));
}
HSATTN_INLINE F or_bits(F x, F y) { return reinterpret_cast<F>(reinterpret_cast<I>(x) | reinterpret_cast<I>(y)); }
HSATTN_INLINE F xor_bits(F x, std::uint32_t mask) {
  return reinterpret_cast<F>(reinterpret_cast<I>(x) ^ static_cast<std::int32_t>(mask));
}
HSATTN_INLINE F lower_numbers(F pairs) { return reinterpret_cast<F>(reinterpret_cast<I>(pairs) << 16); }
HSATTN_INLINE F add_pair_products(F sum, F a, F b) {
  sum = fma(and_bits(a, 0xffff0000U), and_bits(b, 0xffff0000U), sum);
  return fma(lower_numbers(a), lower_numbers(b), sum);
}
// x rounded to bfloat16, in the upper halves.
HSATTN_INLINE I rounded_to_upper(F x) {
  const I word = reinterpret_cast<I>(x);
  const I rounded = word + 0x7fff + (word >> 16 & 1);
  return (x == x ? rounded : word | 0x400000) & static_cast<std::int32_t>(0xffff0000U);
}
// a[0], b[0], a[1], b[1], ... of 8 each.
HSATTN_INLINE F interleaved(const float* a, const float* b) {
  float x[kLanes];
  for (int i = 0; i < kLanes / 2; ++i) {
    x[2 * i] = a[i];
    x[2 * i + 1] = b[i];
  }
  return load(x);
}
HSATTN_INLINE F swap_neighbours(F x) {
  return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
}
// Bytes [16][2]: the integers within 127 of 0 that low and high leave without their fractions, plus 128.
HSATTN_INLINE void store_as_bytes(F low, F high, std::uint8_t* bytes) {
  const I a = __builtin_convertvector(low, I) + 128, b = __builtin_convertvector(high, I) + 128;
  for (int i = 0; i < kLanes; ++i) {
    bytes[2 * i] = static_cast<std::uint8_t>(a[i]);
    bytes[2 * i + 1] = static_cast<std::uint8_t>(b[i]);
  }
}
// Lane i holds low's and high's number i.
HSATTN_INLINE F pairs_of_lanes(F low, F high) {
  return reinterpret_cast<F>((rounded_to_upper(low) >> 16 & 0xffff) | rounded_to_upper(high));
}
// 32 numbers, rounded: lane i holds numbers 2i and 2i + 1.
HSATTN_INLINE F pairs_of_neighbours(F first, F second) {
  return pairs_of_lanes(
      __builtin_shufflevector(first, second, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
      __builtin_shufflevector(first, second, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31));
}
