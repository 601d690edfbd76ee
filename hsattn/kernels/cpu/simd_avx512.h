// 16 lanes of float32 on AVX-512. Included inside the kernels' own namespace; see simd.h.
constexpr int kLanes = 16;
using F = __m512;
using H = __m256;  // the 8 lanes of one unit
using M = __mmask16;

HSATTN_INLINE F zero() { return _mm512_setzero_ps(); }
HSATTN_INLINE F set1(float x) { return _mm512_set1_ps(x); }
HSATTN_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
HSATTN_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
HSATTN_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
HSATTN_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
HSATTN_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
HSATTN_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
// c - a b.
HSATTN_INLINE F minus_product(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
HSATTN_INLINE F max_keep_nan(F floor, F x) { return _mm512_max_ps(floor, x); }
HSATTN_INLINE F min_keep_nan(F ceiling, F x) { return _mm512_min_ps(ceiling, x); }
HSATTN_INLINE F round_nearest(F x) { return _mm512_roundscale_ps(x, 0); }
// x * 2^exponent; 0 for an exponent below -125. Results that are not normal numbers take some of Intel's processors
// over a hundred cycles, and weights of tokens that are not seen would be such results: without it attention over lists
// takes 1.6x the time there.
HSATTN_INLINE F scale_by_power(F x, F exponent) {
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(exponent, _mm512_set1_ps(-125.0F), _CMP_NLT_UQ), x, exponent);
}
// p 2^(n - m) in the lanes of `keep`, 0 elsewhere, for integers n and m that 1.5 * 2^23 was added to. Normal results
// only.
HSATTN_INLINE F scale_by_shifted(M keep, F p, F n, F m) {
  const __m512i power = _mm512_slli_epi32(_mm512_sub_epi32(_mm512_castps_si512(n), _mm512_castps_si512(m)), 23);
  return _mm512_castsi512_ps(_mm512_maskz_add_epi32(keep, power, _mm512_castps_si512(p)));
}
HSATTN_INLINE F round_up(F x) { return _mm512_roundscale_ps(x, 2); }
HSATTN_INLINE float reduce_max(F x) { return _mm512_reduce_max_ps(x); }
// out[r]: the largest lane of x[r], of 4 vectors.
HSATTN_INLINE void store_maxima_of_quad(const F* x, float* out) {
  for (int r = 0; r < 4; ++r) out[r] = reduce_max(x[r]);
}
HSATTN_INLINE M lanes_of(const std::uint8_t* bytes) {
  return static_cast<M>(bytes[0] | (static_cast<unsigned>(bytes[1]) << 8));
}
HSATTN_INLINE F select(M m, F yes, F no) { return _mm512_mask_mov_ps(no, m, yes); }
HSATTN_INLINE M finite(F x) { return _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(-kMasked), _CMP_LT_OQ); }
HSATTN_INLINE unsigned bits(M m) { return m; }
HSATTN_INLINE M at_least(F x, F y) { return _mm512_cmp_ps_mask(x, y, _CMP_GE_OQ); }
HSATTN_INLINE M both(M a, M b) { return a & b; }
// Lanes i where byte i of the next 16 has bit `bit`.
HSATTN_INLINE M lanes_with_bit(const std::uint8_t* bytes, unsigned bit) {
  return _mm_test_epi8_mask(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)),
                            _mm_set1_epi8(static_cast<char>(1U << bit)));
}
// Same lanes of two units, side by side.
HSATTN_INLINE F load_units(const float* const* unit, Index offset) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(unit[0] + offset)),
                            _mm256_loadu_ps(unit[1] + offset), 1);
}
// The next two words of a row, for each of the 8 tokens of a unit.
HSATTN_INLINE F set_step(const float* words) {
  double both;
  __builtin_memcpy(&both, words, sizeof both);
  return _mm512_castpd_ps(_mm512_set1_pd(both));
}
// Scores of two units, of which x holds two sums for each token.
HSATTN_INLINE F sums_of_steps(const F* x) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return _mm512_add_ps(_mm512_permutex2var_ps(x[0], even, x[1]), _mm512_permutex2var_ps(x[0], odd, x[1]));
}
// A unit whose tokens lie in parts of so many, in different places; two words of each.
template <int kPart>
HSATTN_INLINE F load_parts(const float* const* part, Index offset) {
  if constexpr (kPart == 4) {
    return load_units(part, offset);
  } else {
    const auto four = [&](int i) {  // words
      if constexpr (kPart == 2) return _mm_loadu_ps(part[i] + offset);
      const __m128d low = _mm_load_sd(reinterpret_cast<const double*>(part[2 * i] + offset));
      return _mm_castpd_ps(_mm_loadh_pd(low, reinterpret_cast<const double*>(part[2 * i + 1] + offset)));
    };
    const F low = _mm512_insertf32x4(_mm512_castps128_ps512(four(0)), four(1), 1);
    return _mm512_insertf32x4(_mm512_insertf32x4(low, four(2), 2), four(3), 3);
  }
}
HSATTN_INLINE H half_zero() { return _mm256_setzero_ps(); }
HSATTN_INLINE H half_load(const float* p) { return _mm256_loadu_ps(p); }
HSATTN_INLINE void half_store(float* p, H x) { _mm256_storeu_ps(p, x); }
// Adds the units of x to s, one after another.
HSATTN_INLINE H add_units(H s, F x) {
  return _mm256_add_ps(_mm256_add_ps(s, _mm512_castps512_ps256(x)), _mm512_extractf32x8_ps(x, 1));
}
HSATTN_INLINE H half_mul(H a, float b) { return _mm256_mul_ps(a, _mm256_set1_ps(b)); }
// x >= 0 in units of 2^-20, as integers: sums of them do not depend on the order.
using I = __m512i;
HSATTN_INLINE I int_zero() { return _mm512_setzero_si512(); }
HSATTN_INLINE I to_fixed_point(F x) { return _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(1048576.0F))); }
HSATTN_INLINE I int_add(I a, I b) { return _mm512_add_epi32(a, b); }
HSATTN_INLINE I integer_bits(F x) { return _mm512_castps_si512(x); }
HSATTN_INLINE std::int64_t int_sum(I x) {
  return _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_cvtepu32_epi64(_mm512_castsi512_si256(x)),
                                                  _mm512_cvtepu32_epi64(_mm512_extracti32x8_epi32(x, 1))));
}
// Quarter i of the result: the sums of the quarters i of 4 vectors.
HSATTN_INLINE F sums_of_quarters(const F* x) {
  const __m512d a = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1])));
  const __m512d b = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3])));
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
}
// Sums of the lanes of each of the 8 units of a panel.
HSATTN_INLINE H sums_of_units(const F* x) {
  const F quarters = sums_of_quarters(x);
  const F units = _mm512_add_ps(quarters, _mm512_shuffle_f32x4(quarters, quarters, 0xb1));
  const __m512i order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 0, 0, 0, 0, 0, 0, 0, 0);
  return _mm512_castps512_ps256(_mm512_permutexvar_ps(order, units));
}
// out[r][i] = the sum of the lanes of x[4 r + i], for 4 rows of 4.
HSATTN_INLINE void store_sums(const F* x, float* out, Index stride) {
  const F a = sums_of_quarters(x), b = sums_of_quarters(x + 4), c = sums_of_quarters(x + 8);
  const F d = sums_of_quarters(x + 12);
  const F ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  const F cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x88), _mm512_shuffle_f32x4(c, d, 0xdd));
  const F sums = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  _mm_storeu_ps(out, _mm512_castps512_ps128(sums));
  _mm_storeu_ps(out + stride, _mm512_extractf32x4_ps(sums, 1));
  _mm_storeu_ps(out + 2 * stride, _mm512_extractf32x4_ps(sums, 2));
  _mm_storeu_ps(out + 3 * stride, _mm512_extractf32x4_ps(sums, 3));
}
// Lane 4 i + j of the result: the largest of quarter i of vector j.
HSATTN_INLINE F maxima_of_quarters(const F* x) {
  const __m512d a = _mm512_castps_pd(_mm512_max_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1])));
  const __m512d b = _mm512_castps_pd(_mm512_max_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3])));
  return _mm512_max_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
}
// Lane r: the largest lane of vector r.
HSATTN_INLINE F maxima_of_rows(const F* x) {
  const F a = maxima_of_quarters(x), b = maxima_of_quarters(x + 4), c = maxima_of_quarters(x + 8);
  const F d = maxima_of_quarters(x + 12);
  const F ab = _mm512_max_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  const F cd = _mm512_max_ps(_mm512_shuffle_f32x4(c, d, 0x88), _mm512_shuffle_f32x4(c, d, 0xdd));
  return _mm512_max_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}
// Bytes [8][4] as [4][8].
HSATTN_INLINE void transpose_bytes(const std::uint32_t* words, std::uint8_t* bytes) {
  const __m256i turn = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m256i fours = _mm256_shuffle_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words)), turn);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), _mm256_permutevar8x32_epi32(fours, order));
}
HSATTN_INLINE M above(F x, F y) { return _mm512_cmp_ps_mask(x, y, _CMP_GT_OQ); }
// bytes[i] |= flag in the lanes of m.
HSATTN_INLINE void mark_lanes(std::uint8_t* bytes, M m, std::uint8_t flag) {
  auto* p = reinterpret_cast<__m128i*>(bytes);
  _mm_storeu_si128(p, _mm_or_si128(_mm_loadu_si128(p), _mm_maskz_set1_epi8(m, static_cast<char>(flag))));
}
// Writes the lanes of m one after another, and rubbish up to a whole vector; returns how many.
HSATTN_INLINE Index compress(std::int32_t* out, const std::int32_t* in, M m) {
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(m, _mm512_loadu_si512(in)));
  return __builtin_popcount(m);
}
// Products of bytes: each 32-bit lane adds 4 products of an unsigned and a signed byte.
HSATTN_INLINE I int_set1(std::int32_t x) { return _mm512_set1_epi32(x); }
HSATTN_INLINE F to_float(I x) { return _mm512_cvtepi32_ps(x); }
HSATTN_INLINE I load_byte_units(const std::uint8_t* const* unit, Index offset) {
  const auto* low = reinterpret_cast<const __m256i*>(unit[0] + offset);
  const auto* high = reinterpret_cast<const __m256i*>(unit[1] + offset);
  return _mm512_inserti32x8(_mm512_castsi256_si512(_mm256_loadu_si256(low)), _mm256_loadu_si256(high), 1);
}
template <bool kVnni>
HSATTN_INLINE I add_byte_products(I sum, I bytes, I signed_bytes) {
  if constexpr (kVnni) {  // the intrinsic would need the instruction set for the whole file
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(signed_bytes));
    return sum;
  } else {
    const I pairs = _mm512_maddubs_epi16(bytes, signed_bytes);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
  }
}
// Pairs of bfloat16. The sum takes the upper products first, then the lower ones, each rounded to float32.
HSATTN_INLINE F add_pair_products(F sum, F a, F b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));  // as for vnni
  return sum;
}
HSATTN_INLINE F and_bits(F x, std::uint32_t mask) {
  return _mm512_and_ps(x, _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(mask))));
}
HSATTN_INLINE F or_bits(F x, F y) { return _mm512_or_ps(x, y); }
HSATTN_INLINE F xor_bits(F x, std::uint32_t mask) {
  return _mm512_xor_ps(x, _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(mask))));
}
HSATTN_INLINE F lower_numbers(F pairs) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16));
}
// 32 numbers, rounded: lane i holds numbers 2i and 2i + 1.
HSATTN_INLINE F pairs_of_neighbours(F first, F second) {
  F pairs;
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(pairs) : "v"(second), "v"(first));
  return pairs;
}
// Lane i holds low's and high's number i.
HSATTN_INLINE F pairs_of_lanes(F low, F high) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, _mm512_castps_si512(pairs_of_neighbours(low, high))));
}
// a[0], b[0], a[1], b[1], ... of 8 each.
HSATTN_INLINE F interleaved(const float* a, const float* b) {
  const __m512i order = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return _mm512_permutex2var_ps(_mm512_castps256_ps512(_mm256_loadu_ps(a)), order,
                                _mm512_castps256_ps512(_mm256_loadu_ps(b)));
}
HSATTN_INLINE F swap_neighbours(F x) { return _mm512_permute_ps(x, 0xb1); }
// Bytes [16][2]: the integers within 127 of 0 that low and high leave without their fractions, plus 128.
HSATTN_INLINE void store_as_bytes(F low, F high, std::uint8_t* bytes) {
  const __m512i a = _mm512_cvttps_epi32(low), b = _mm512_slli_epi32(_mm512_cvttps_epi32(high), 8);
  const __m512i both = _mm512_ternarylogic_epi32(_mm512_set1_epi32(0xff), a, b, 0xca);  // a's lowest byte, else b's
  const __m256i words = _mm256_xor_si256(_mm512_cvtepi32_epi16(both), _mm256_set1_epi8(-128));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), words);
}
HSATTN_INLINE bool has_vnni() { return __builtin_cpu_supports("avx512vnni") != 0; }
HSATTN_INLINE M lanes_of_word(unsigned word) { return static_cast<M>(word); }
