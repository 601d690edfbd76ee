// The 8 tile registers of AMX, or their imitation: matrices of up to 16 rows of 16 words. Included inside the kernels'
// own namespace.
//
// C += A B for A [rows, k] and B [k, columns] of pairs of bfloat16 and C of float32. Each C[i][j] gets the sum of two
// chains that start from 0, one of the products of first numbers, one of those of second ones, in the order of k, each
// product and sum rounded once. So what one instruction adds up depends on all its pairs, and pairs of zeros change no
// bit. Products of bytes, signed ones of A by unsigned ones of B, are added to integers, exactly.
#pragma once

// Rows and words of a row, for each register.
struct TileShapes {
  std::uint8_t rows[8];
  std::uint8_t words[8];
};

template <int I>
struct Number {
  static constexpr int value = I;
};
// body(Number<0>{}), ..., body(Number<N - 1>{}): registers are named by constants.
template <int N, class Body>
HSATTN_INLINE void each_register(Body body) {
  if constexpr (N > 0) {
    each_register<N - 1>(body);
    body(Number<N - 1>{});
  }
}

#if defined(HSATTN_SIMD_AVX512)

// Sets the registers up for its life; another of the same thread must not begin before it ends. The instructions are
// written out as intrinsics would need the instruction set for the whole file, and take their numbers from macros.
class TileRegisters {
 public:
  HSATTN_ALWAYS explicit TileRegisters(const TileShapes& shapes) {
    struct {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t bytes[16] = {};
      std::uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) {
      config.bytes[i] = static_cast<std::uint16_t>(4 * shapes.words[i]);
      config.rows[i] = shapes.rows[i];
    }
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
  HSATTN_ALWAYS ~TileRegisters() { asm volatile("tilerelease"); }
};

template <int T>
HSATTN_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(T));
}
// Rows of words that are `stride` words apart.
template <int T>
HSATTN_INLINE void tile_load(const float* words, Index stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(words), "r"(4 * stride), "i"(T) : "memory");
}
template <int T>
HSATTN_INLINE void tile_store(float* words, Index stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(words), "r"(4 * stride), "i"(T) : "memory");
}
template <int C, int A, int B>
HSATTN_INLINE void tile_add_products() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}
template <int C, int A, int B>
HSATTN_INLINE void tile_add_byte_products() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

#else

struct ImitatedTiles {
  TileShapes shapes;
  float words[8][16][16];
};
static thread_local ImitatedTiles imitated;

class TileRegisters {
 public:
  explicit TileRegisters(const TileShapes& shapes) { imitated.shapes = shapes; }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
  ~TileRegisters() { imitated.shapes = {}; }
};

template <int T>
HSATTN_INLINE void tile_zero() {
  __builtin_memset(imitated.words[T], 0, sizeof imitated.words[T]);
}
template <int T>
HSATTN_APART void tile_load(const float* words, Index stride) {
  const ImitatedTiles& t = imitated;
  tile_zero<T>();
  for (int i = 0; i < t.shapes.rows[T]; ++i)
    __builtin_memcpy(imitated.words[T][i], words + i * stride, 4U * t.shapes.words[T]);
}
template <int T>
HSATTN_APART void tile_store(float* words, Index stride) {
  const ImitatedTiles& t = imitated;
  for (int i = 0; i < t.shapes.rows[T]; ++i)
    __builtin_memcpy(words + i * stride, t.words[T][i], 4U * t.shapes.words[T]);
}
template <int C, int A, int B>
HSATTN_APART void tile_add_products() {
  const ImitatedTiles& t = imitated;
  for (int i = 0; i < t.shapes.rows[C]; ++i) {
    F first = zero(), second = zero();
    for (int k = 0; k < t.shapes.words[A]; ++k) {
      const F a = set1(t.words[A][i][k]), b = load(t.words[B][k]);
      first = fma(lower_numbers(a), lower_numbers(b), first);
      second = fma(and_bits(a, 0xffff0000U), and_bits(b, 0xffff0000U), second);
    }
    store(imitated.words[C][i], add(load(t.words[C][i]), add(first, second)));
  }
}
template <int C, int A, int B>
HSATTN_APART void tile_add_byte_products() {
  const ImitatedTiles& t = imitated;
  for (int i = 0; i < t.shapes.rows[C]; ++i) {
    std::int32_t sums[16];
    __builtin_memcpy(sums, t.words[C][i], sizeof sums);
    for (int k = 0; k < t.shapes.words[A]; ++k) {
      std::int8_t a[4];
      std::uint8_t b[64];
      __builtin_memcpy(a, &t.words[A][i][k], sizeof a);
      __builtin_memcpy(b, t.words[B][k], sizeof b);
      for (int j = 0; j < 64; ++j) sums[j / 4] += a[j % 4] * b[j];
    }
    __builtin_memcpy(imitated.words[C][i], sums, sizeof sums);
  }
}

#endif
