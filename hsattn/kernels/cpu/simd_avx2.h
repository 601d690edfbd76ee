// 8 lanes of float32 on AVX2 with FMA. Included inside the kernels' own namespace; see simd.h.
constexpr int kLanes = 8;
using F = __m256;
using H = __m256;
using M = __m256;  // all bits of a lane, or none

HSATTN_INLINE F zero() { return _mm256_setzero_ps(); }
HSATTN_INLINE F set1(float x) { return _mm256_set1_ps(x); }
HSATTN_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
HSATTN_INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x); }
HSATTN_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
HSATTN_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
HSATTN_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
HSATTN_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
HSATTN_INLINE F minus_product(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
HSATTN_INLINE F max_keep_nan(F floor, F x) { return _mm256_max_ps(floor, x); }
HSATTN_INLINE F min_keep_nan(F ceiling, F x) { return _mm256_min_ps(ceiling, x); }
HSATTN_INLINE F round_nearest(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// x * 2^exponent for an integral exponent of at most 127; below 2^-126 the factor is 0.
HSATTN_INLINE F scale_by_power(F x, F exponent) {
  const F e = _mm256_max_ps(exponent, _mm256_set1_ps(-127.0F));
  const F biased = _mm256_add_ps(e, _mm256_set1_ps(12582912.0F + 127.0F));  // 1.5 * 2^23: the low bits are an integer
  return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(biased), 23)));
}
HSATTN_INLINE float reduce_max(F x) {
  __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  a = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps(a, a, 1)));
}
HSATTN_INLINE M mask_from_bits(unsigned byte) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(byte)), bit), bit));
}
HSATTN_INLINE M lanes_of(const std::uint8_t* bytes) { return mask_from_bits(bytes[0]); }
HSATTN_INLINE F select(M m, F yes, F no) { return _mm256_blendv_ps(no, yes, m); }
HSATTN_INLINE M finite(F x) {
  return _mm256_cmp_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0F), x), _mm256_set1_ps(-kMasked), _CMP_LT_OQ);
}
HSATTN_INLINE unsigned bits(M m) { return static_cast<unsigned>(_mm256_movemask_ps(m)); }
HSATTN_INLINE M at_least(F x, F y) { return _mm256_cmp_ps(x, y, _CMP_GE_OQ); }
HSATTN_INLINE M both(M a, M b) { return _mm256_and_ps(a, b); }
HSATTN_INLINE M lanes_with_bit(const std::uint8_t* bytes, unsigned bit) {
  const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
  const __m256i want = _mm256_set1_epi32(static_cast<int>(1U << bit));
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(wide, want), want));
}
HSATTN_INLINE F load_units(const float* const* unit, Index offset) { return _mm256_loadu_ps(unit[0] + offset); }
HSATTN_INLINE H half_zero() { return _mm256_setzero_ps(); }
HSATTN_INLINE H half_load(const float* p) { return _mm256_loadu_ps(p); }
HSATTN_INLINE void half_store(float* p, H x) { _mm256_storeu_ps(p, x); }
HSATTN_INLINE H add_units(H s, F x) { return _mm256_add_ps(s, x); }
HSATTN_INLINE H sum_of_units(F x) { return x; }
HSATTN_INLINE H half_mul(H a, float b) { return _mm256_mul_ps(a, _mm256_set1_ps(b)); }
using I = __m256i;
HSATTN_INLINE I int_zero() { return _mm256_setzero_si256(); }
HSATTN_INLINE I to_fixed_point(F x) { return _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(1048576.0F))); }
HSATTN_INLINE I int_add(I a, I b) { return _mm256_add_epi32(a, b); }
HSATTN_INLINE std::int64_t int_sum(I x) {
  alignas(32) std::uint32_t lane[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lane), x);
  std::int64_t sum = 0;
  for (const std::uint32_t one : lane) sum += one;
  return sum;
}
HSATTN_INLINE H sums_of_units(const H* u) {
  const H a = _mm256_hadd_ps(_mm256_hadd_ps(u[0], u[1]), _mm256_hadd_ps(u[2], u[3]));
  const H b = _mm256_hadd_ps(_mm256_hadd_ps(u[4], u[5]), _mm256_hadd_ps(u[6], u[7]));
  return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
