#include "lm/eval/fma_peak.h"

#include <algorithm>

#include "hsattn/base/cpu.h"
#include "lm/eval/timing.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hsattn::lm {
namespace {

#if defined(__x86_64__)

// Sums in flight: two instructions each cycle times a latency of 4 to 6 cycles, and no more than AVX2's registers hold.
constexpr int kSums = 12;
constexpr long kRounds = 200'000;  // of kSums instructions: about 1 ms

// Hides the value of a register from the compiler, which would do equal sums once.
#define HSATTN_KEEP(value) __asm__ volatile("" : "+v"(value))

// A loop of kRounds times kSums instructions `step`, which adds half * half to a sum; code for `instructions` cannot be
// a template, which would not be compiled for them.
#define HSATTN_DEFINE_LOOP(name, instructions, Vector, a_half, step) \
  __attribute__((target(instructions))) void name() {                \
    Vector sums[kSums] = {};                                         \
    const auto half = a_half;                                        \
    for (long i = 0; i < kRounds; ++i) {                             \
      _Pragma("GCC unroll 12") for (auto& sum : sums) {              \
        sum = step;                                                  \
        HSATTN_KEEP(sum);                                            \
      }                                                              \
    }                                                                \
  }

HSATTN_DEFINE_LOOP(multiply_avx2, "avx2,fma", __m256, _mm256_set1_ps(0.5F), _mm256_fmadd_ps(sum, half, half))
HSATTN_DEFINE_LOOP(multiply_avx512, "avx512f", __m512, _mm512_set1_ps(0.5F), _mm512_fmadd_ps(sum, half, half))
// 0.5, twice.
HSATTN_DEFINE_LOOP(multiply_bf16, "avx512f,avx512bf16", __m512, (__m512bh)_mm512_set1_epi32(0x3f003f00),
                   _mm512_dpbf16_ps(sum, half, half))

constexpr int kTileSums = 4;
constexpr long kTileRounds = 50'000;  // of kTileSums instructions: about 1 ms

__attribute__((target("amx-tile,amx-bf16"))) void multiply_tiles() {
  struct {
    unsigned char palette = 1, start_row = 0, reserved[14] = {};
    unsigned short bytes[16] = {64, 64, 64, 64, 64, 64};
    unsigned char rows[16] = {16, 16, 16, 16, 16, 16};
  } shapes;
  alignas(64) unsigned halves[16][16];
  for (auto& row : halves) std::fill_n(row, 16, 0x3f003f00U);   // 0.5, twice
  __asm__ volatile("" ::"r"(&shapes), "r"(halves) : "memory");  // the intrinsics do not say that they read all of both
  _tile_loadconfig(&shapes);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, halves, 64);
  _tile_loadd(5, halves, 64);
  for (long i = 0; i < kTileRounds; ++i) {
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 5);
    _tile_dpbf16ps(2, 4, 5);
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_release();
}

bool has_tiles() {
  const auto& isas = available_isas();
  return std::find(isas.begin(), isas.end(), Isa::kAmx) != isas.end();
}

// `flop`: operations of one instruction, of which a loop has `instructions`.
double gflops(void (*loop)(), double flop, double instructions = kSums * static_cast<double>(kRounds)) {
  double best = 1e9;  // milliseconds
  for (int i = 0; i < 30; ++i) best = std::min(best, milliseconds(loop));
  return flop * instructions / best / 1e6;
}

#endif

}  // namespace

FmaPeak measure_fma_peak() {
  FmaPeak peak;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) peak.float32 = gflops(multiply_avx2, 2 * 8);
  if (__builtin_cpu_supports("avx512f")) peak.float32 = std::max(peak.float32, gflops(multiply_avx512, 2 * 16));
  if (__builtin_cpu_supports("avx512bf16")) peak.bfloat16 = gflops(multiply_bf16, 2 * 32);
  if (has_tiles())
    peak.bfloat16 = gflops(multiply_tiles, 2 * 16 * 16 * 32, kTileSums * static_cast<double>(kTileRounds));
#endif
  return peak;
}

}  // namespace hsattn::lm
