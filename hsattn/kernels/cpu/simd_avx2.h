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
// out[r]: the largest lane of x[r], of 4 vectors.
HSATTN_INLINE void store_maxima_of_quad(const F* x, float* out) {
  const F a = _mm256_max_ps(_mm256_unpacklo_ps(x[0], x[1]), _mm256_unpackhi_ps(x[0], x[1]));
  const F b = _mm256_max_ps(_mm256_unpacklo_ps(x[2], x[3]), _mm256_unpackhi_ps(x[2], x[3]));
  const F c = _mm256_max_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
  _mm_storeu_ps(out, _mm_max_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1)));
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
// The next word of a row, for each of the 8 tokens of a unit.
HSATTN_INLINE F set_step(const float* words) { return set1(*words); }
HSATTN_INLINE F sums_of_steps(const F* x) { return *x; }
// A unit whose tokens lie in parts of so many, in different places.
template <int kPart>
HSATTN_INLINE F load_parts(const float* const* part, Index offset) {
  if constexpr (kPart == 4) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(part[0] + offset)), _mm_loadu_ps(part[1] + offset),
                                1);
  } else if constexpr (kPart == 2) {
    const auto two = [&](int i) {
      const __m128d low = _mm_load_sd(reinterpret_cast<const double*>(part[i] + offset));
      return _mm_castpd_ps(_mm_loadh_pd(low, reinterpret_cast<const double*>(part[i + 1] + offset)));
    };
    return _mm256_insertf128_ps(_mm256_castps128_ps256(two(0)), two(2), 1);
  } else {
    const auto at = [&](int i) { return part[i][offset]; };
    return _mm256_setr_ps(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7));
  }
}
HSATTN_INLINE H half_zero() { return _mm256_setzero_ps(); }
HSATTN_INLINE H half_load(const float* p) { return _mm256_loadu_ps(p); }
HSATTN_INLINE void half_store(float* p, H x) { _mm256_storeu_ps(p, x); }
HSATTN_INLINE H add_units(H s, F x) { return _mm256_add_ps(s, x); }
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
HSATTN_INLINE H sums_of_units(const F* u) {
  const H a = _mm256_hadd_ps(_mm256_hadd_ps(u[0], u[1]), _mm256_hadd_ps(u[2], u[3]));
  const H b = _mm256_hadd_ps(_mm256_hadd_ps(u[4], u[5]), _mm256_hadd_ps(u[6], u[7]));
  return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
HSATTN_INLINE void store_sums(const F* x, float* out, Index stride) {
  for (int r = 0; r < 4; r += 2) {
    const H sums = sums_of_units(x + 4 * r);
    _mm_storeu_ps(out + r * stride, _mm256_castps256_ps128(sums));
    _mm_storeu_ps(out + (r + 1) * stride, _mm256_extractf128_ps(sums, 1));
  }
}
HSATTN_INLINE M above(F x, F y) { return _mm256_cmp_ps(x, y, _CMP_GT_OQ); }
HSATTN_INLINE void mark_lanes(std::uint8_t* bytes, M m, std::uint8_t flag) {
  const __m256i lanes = _mm256_castps_si256(m);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  const __m128i marks = _mm_and_si128(_mm_packs_epi16(words, words), _mm_set1_epi8(static_cast<char>(flag)));
  auto* p = reinterpret_cast<__m128i*>(bytes);
  _mm_storel_epi64(p, _mm_or_si128(_mm_loadl_epi64(p), marks));
}
// Which lanes go where: for each mask, the indices of its lanes.
struct CompressTable {
  std::uint8_t lane[256][8];
  constexpr CompressTable() : lane{} {
    for (int mask = 0; mask < 256; ++mask) {
      for (int i = 0, count = 0; i < 8; ++i) {
        if ((mask >> i & 1) != 0) lane[mask][count++] = static_cast<std::uint8_t>(i);
      }
    }
  }
};
constexpr CompressTable kCompress;
HSATTN_INLINE Index compress(std::int32_t* out, const std::int32_t* in, M m) {
  const auto mask = static_cast<unsigned>(_mm256_movemask_ps(m));
  const __m256i order = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kCompress.lane[mask])));
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permutevar8x32_epi32(x, order));
  return __builtin_popcount(mask);
}
HSATTN_INLINE I int_set1(std::int32_t x) { return _mm256_set1_epi32(x); }
HSATTN_INLINE F to_float(I x) { return _mm256_cvtepi32_ps(x); }
HSATTN_INLINE I load_byte_units(const std::uint8_t* const* unit, Index offset) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(unit[0] + offset));
}
template <bool kVnni>
HSATTN_INLINE I add_byte_products(I sum, I bytes, I signed_bytes) {
  const I pairs = _mm256_maddubs_epi16(bytes, signed_bytes);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
HSATTN_INLINE bool has_vnni() { return false; }
HSATTN_INLINE M lanes_of_word(unsigned word) { return mask_from_bits(word); }
