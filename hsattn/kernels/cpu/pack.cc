#include "hsattn/kernels/cpu/pack.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "hsattn/kernels/cpu/kernels.h"
#include "hsattn/kernels/pool.h"
#include "hsattn/kernels/quantize.h"

namespace hsattn::cpu {
namespace {

// Four rows of four floats, `stride` bytes apart, to four columns, `step` bytes apart.
void transpose_four(const std::byte* rows, Index stride, Index step, std::byte* out) {
  using V = float __attribute__((vector_size(16)));
  V a, b, c, d;
  std::memcpy(&a, rows, sizeof a);
  std::memcpy(&b, rows + stride, sizeof b);
  std::memcpy(&c, rows + 2 * stride, sizeof c);
  std::memcpy(&d, rows + 3 * stride, sizeof d);
  const V ac = __builtin_shufflevector(a, c, 0, 4, 1, 5), bd = __builtin_shufflevector(b, d, 0, 4, 1, 5);
  const V ac2 = __builtin_shufflevector(a, c, 2, 6, 3, 7), bd2 = __builtin_shufflevector(b, d, 2, 6, 3, 7);
  const V columns[4] = {__builtin_shufflevector(ac, bd, 0, 4, 1, 5), __builtin_shufflevector(ac, bd, 2, 6, 3, 7),
                        __builtin_shufflevector(ac2, bd2, 0, 4, 1, 5), __builtin_shufflevector(ac2, bd2, 2, 6, 3, 7)};
  for (int i = 0; i < 4; ++i) std::memcpy(out + i * step, &columns[i], sizeof(V));
}

// Step i of a unit is bytes [i kBytes, (i + 1) kBytes) of each of its rows, one after another; steps are `columns`
// tokens apart. `bytes` of a row and `count` rows exist, for the lanes from `lane` on. Lane 0 begins the unit: the rest
// of it becomes zeros.
template <Index kBytes>
void transpose_bytes(const std::byte* rows, Index stride, Index lane, Index count, Index bytes, Index steps,
                     Index columns, std::byte* out) {
  const Index whole = bytes / kBytes;
  if (lane == 0 && (count < kUnit || whole < steps)) {
    for (Index i = 0; i < steps; ++i) std::memset(out + i * columns * kBytes, 0, kUnit * kBytes);
  }
  out += lane * kBytes;
  Index i = 0;
  if constexpr (kBytes == sizeof(float)) {
    for (; count == kUnit && i + 4 <= whole; i += 4) {
      for (Index j = 0; j < kUnit; j += 4) {
        transpose_four(rows + j * stride + i * kBytes, stride, columns * kBytes, out + (i * columns + j) * kBytes);
      }
    }
  }
  for (; i < whole; ++i) {
    for (Index j = 0; j < count; ++j)
      std::memcpy(out + (i * columns + j) * kBytes, rows + j * stride + i * kBytes, kBytes);
  }
  const Index rest = bytes - whole * kBytes;
  if (rest == 0) return;
  for (Index j = 0; j < count; ++j) {
    std::memcpy(out + (whole * columns + j) * kBytes, rows + j * stride + whole * kBytes,
                static_cast<std::size_t>(rest));
  }
}

// Where a unit begins in keys_t or values_t.
float* unit_in_columns(const PackedHead& head, const Units<float>& table, Index unit) {
  return head.tiles ? column(table, unit) : table[unit];
}

// A unit of `head`, in steps of words: rows of floats, or rows of bfloat16 as they are stored.
void transpose_unit(const PackedHead& head, const std::byte* rows, Index stride, Index lane, Index count, Index bytes,
                    float* out) {
  const Index steps = head.depth / head.step;
  auto* to = reinterpret_cast<std::byte*>(out);
  if (head.step == 2) return transpose_bytes<8>(rows, stride, lane, count, bytes, steps, head.columns, to);
  transpose_bytes<4>(rows, stride, lane, count, bytes, steps, head.columns, to);
}

void copy_unit(const Rows<const float>& rows, Index lane, Index padded_dim, float* out) {
  if (lane == 0) std::memset(out, 0, static_cast<std::size_t>(kUnit * padded_dim) * sizeof(float));
  for (Index j = 0; j < rows.count; ++j) std::copy_n(rows.row(j), rows.dim, out + (lane + j) * padded_dim);
}

// The same in pairs of bfloat16: [4, padded dim] pairs of tokens.
void pair_up_tokens(const StoredRows& x, Index first, Index lane, Index count, Index padded_dim, float* out) {
  if (lane == 0) std::memset(out, 0, static_cast<std::size_t>(kUnit / 2 * padded_dim) * sizeof(float));
  Index j = 0;
  if (lane % 2 == 1 && count > 0) set_high_halves(x.row(first + j++), x.dim, out + lane / 2 * padded_dim);
  for (; j < count; j += 2) {
    const std::byte* high = j + 1 < count ? x.row(first + j + 1) : nullptr;
    pair_up_rows(x.row(first + j), high, x.dim, out + (lane + j) / 2 * padded_dim);
  }
}

}  // namespace

bool all_finite(const Rows<const float>& rows) {
  constexpr std::int32_t kInfinity = 0x7f800000;
  std::int32_t largest = 0;
  for (Index j = 0; j < rows.count; ++j) largest = std::max(largest, largest_magnitude_bits(rows.row(j), rows.dim));
  return largest < kInfinity;
}

Index node_tokens(const PackedHead& head, Index block, Index level, Index index) {
  const Index begin = (index << level) * block;
  return std::min(head.keys, begin + (block << level)) - begin;
}

PackedHead shape_packed_head(Index keys, Index dim, const PackRequest& request) {
  PackedHead head;
  head.keys = keys;
  head.dim = dim;
  head.padded_dim = round_up(dim, kDimAlign);
  head.units = ceil_div(keys, kUnit);
  head.pairs = request.pairs;
  head.tiles = request.tiles;
  head.step = request.tiles ? 1 : request.step;
  if (head.tiles) {
    head.columns = 2 * kUnit;
    head.units = round_up(head.units, Index{4});
  }
  head.depth = round_up(request.pairs ? ceil_div(dim, Index{2}) : dim, head.tiles ? kDimAlign : head.step);
  head.unit_rows = request.pairs ? kUnit / 2 : kUnit;
  PackedPyramid& p = head.pyramid;
  if (!request.search && !request.far_field) return head;
  const Index blocks = ceil_div(keys, request.block);
  p.levels = pyramid_levels(blocks);
  for (int level = 0; level < p.levels; ++level)
    p.first[level + 1] = p.first[level] + ceil_div(blocks, Index{1} << level);
  return head;
}

namespace {

void take_tables(Slab::Taker& take, const PackRequest& request, PackedHead& head) {
  const auto table = [&]<class T>(Units<T>& units, Index size, Index count) {
    take(units.run, size * count);
    units.size = size;
  };
  table(head.not_finite, 1, head.units);
  if (request.rescore) {
    table(head.keys_int8, kUnit * head.padded_dim, head.units);
    table(head.key_scales, kUnit, head.units);
  }
  if (request.values) {
    table(head.keys_t, kUnit * head.depth, head.units);
    table(head.values, head.unit_rows * head.padded_dim, head.units);
  }
  if (request.backward) {
    table(head.values_t, kUnit * head.depth, head.units);
    table(head.key_rows, head.unit_rows * head.padded_dim, head.units);
  }
  PackedPyramid& p = head.pyramid;
  if (p.levels == 0) return;
  // The rows of all levels are one run, as gradients of nodes are.
  Units<float> keys, values;
  table(keys, head.padded_dim, p.rows());
  if (request.far_field) table(values, head.padded_dim, p.rows());
  const Index part_count = ceil_div(head.keys, request.part());
  if (request.search && request.parts > 1) {
    table(p.parts.keys_int8, kUnit * head.padded_dim, ceil_div(part_count, kUnit));
    table(p.parts.key_scales, kUnit, ceil_div(part_count, kUnit));
  }
  if (request.tail) table(tail_values(p, request.parts), head.padded_dim, request.parts > 1 ? part_count : p.first[1]);
  for (int level = 0; level < p.levels; ++level) {
    PackedLevel& nodes = p.level[level];
    const Index first = p.first[level] * head.padded_dim;
    nodes.keys = {keys.run == nullptr ? nullptr : keys.run + first, head.padded_dim};
    if (request.far_field) nodes.values = {values.run == nullptr ? nullptr : values.run + first, head.padded_dim};
    if (!request.search) continue;
    const Index units = ceil_div(p.first[level + 1] - p.first[level], kUnit);
    table(nodes.keys_int8, kUnit * head.padded_dim, units);
    table(nodes.key_scales, kUnit, units);
  }
}

}  // namespace

OwnedHead allocate_packed_head(Index keys, Index dim, const PackRequest& request) {
  OwnedHead owned{shape_packed_head(keys, dim, request), {}};
  owned.memory = Slab("attention: packed keys, values and pyramid",
                      [&](Slab::Taker& take) { take_tables(take, request, owned.head); });
  return owned;
}

void pack_units(const StoredRows& k, const StoredRows& v, const PackRequest& request, Index begin, Index end,
                PackedHead& head, Index first_token) {
  const Index dim = head.dim, pd = head.padded_dim;
  float k_space[kUnit * kMaxDim], v_space[kUnit * kMaxDim];
  for (Index unit = begin; unit < end; ++unit) {
    const Index lane = std::max<Index>(0, first_token - unit * kUnit);
    const Index first = unit * kUnit + lane - first_token;  // row of k and v
    const Index count = std::clamp<Index>(head.keys - unit * kUnit - lane, 0, kUnit - lane);
    const Rows<const float> keys = float_rows(k, first, count, k_space);
    if (request.rescore) round_lanes(keys, lane, pd, head.keys_int8[unit], head.key_scales[unit]);
    std::uint8_t& flags = *head.not_finite[unit];
    if (lane == 0) flags = 0;
    if (!request.values) continue;
    const Rows<const float> values = float_rows(v, first, count, v_space);
    flags = static_cast<std::uint8_t>(flags | (all_finite(keys) ? 0 : 1) | (all_finite(values) ? 0 : 2));
    const auto columns = [&](const StoredRows& stored, const Rows<const float>& rows, const Units<float>& to) {
      const bool as_stored = head.pairs;
      const std::byte* from = as_stored ? stored.row(first) : reinterpret_cast<const std::byte*>(rows.data);
      const Index element = size_of(as_stored ? stored.dtype : DType::kFloat32);
      transpose_unit(head, from, (as_stored ? stored.stride : rows.stride) * element, lane, count, dim * element,
                     unit_in_columns(head, to, unit));
    };
    const auto rows = [&](const StoredRows& stored, const Rows<const float>& rows, const Units<float>& to) {
      if (head.pairs) return pair_up_tokens(stored, first, lane, count, pd, to[unit]);
      copy_unit(rows, lane, pd, to[unit]);
    };
    columns(k, keys, head.keys_t);
    rows(v, values, head.values);
    if (request.backward) {
      columns(v, values, head.values_t);
      rows(k, keys, head.key_rows);
    }
  }
}

void round_part(const float* key, Index part, const PackedHead& head) {
  const PackedLevel& parts = head.pyramid.parts;
  round_lanes({key, 1, head.dim, head.padded_dim}, part % kUnit, head.padded_dim, parts.keys_int8[part / kUnit],
              parts.key_scales[part / kUnit]);
}

void round_lanes(const Rows<const float>& rows, Index lane, Index padded_dim, std::uint8_t* bytes, float* scales) {
  if (lane == 0) {
    std::memset(bytes, 128, static_cast<std::size_t>(kUnit * padded_dim));
    std::fill_n(scales, kUnit, 0.0F);
  }
  std::int8_t row[kMaxDim] = {};
  for (Index j = 0; j < rows.count; ++j) {
    scales[lane + j] = quantize(rows.row(j), rows.dim, kKeyLevels, row);
    for (Index d = 0; d < padded_dim; d += 4) {
      std::uint32_t four = 0;
      std::memcpy(&four, row + d, sizeof four);
      four ^= 0x80808080U;  // adds 128 to each
      std::memcpy(bytes + d * kUnit + 4 * (lane + j), &four, sizeof four);
    }
  }
}

namespace {

// Number `half` of a word that is a pair.
float from_pair(float word, Index half) {
  const auto bits = std::bit_cast<std::uint32_t>(word);
  return std::bit_cast<float>(half == 0 ? bits << 16 : bits & 0xffff0000U);
}

}  // namespace

void read_packed_key(const PackedHead& head, Index token, float* to) {
  const float* unit = unit_in_columns(head, head.keys_t, token / kUnit);
  const auto word = [&](Index i) {
    return unit[(i / head.step * head.columns + token % kUnit) * head.step + i % head.step];
  };
  for (Index d = 0; d < head.dim; ++d) to[d] = head.pairs ? from_pair(word(d / 2), d % 2) : word(d);
}

void read_packed_value(const PackedHead& head, Index token, float* to) {
  const Index lane = token % kUnit;
  const float* row = head.values[token / kUnit] + (head.pairs ? lane / 2 : lane) * head.padded_dim;
  for (Index d = 0; d < head.dim; ++d) to[d] = head.pairs ? from_pair(row[d], lane % 2) : row[d];
}

void round_packed_keys(const PackedHead& head, Index unit, std::uint8_t* bytes, float* scales) {
  float space[kUnit * kMaxDim];
  for (Index lane = 0; lane < kUnit; ++lane) read_packed_key(head, unit * kUnit + lane, space + lane * head.dim);
  round_lanes({space, kUnit, head.dim, head.dim}, 0, head.padded_dim, bytes, scales);
}

namespace {

// Pools all rows of a head; half-precision rows are converted first, into memory that lasts as long. Nodes that are
// given are taken as they are.
void pool_stored(const StoredRows& x, const Rows<const float>& given, const PackRequest& request, Index padded_dim,
                 float* out) {
  if (given.data != nullptr) {
    for (Index i = 0; i < given.count; ++i, out += padded_dim) {
      std::copy_n(given.row(i), given.dim, out);
      std::fill(out + given.dim, out + padded_dim, 0.0F);
    }
    return;
  }
  Buffer<float> space;
  if (x.dtype != DType::kFloat32) space = allocate_buffer<float>(x.count * x.dim, "attention: rows to pool");
  pool(request.pooling, float_rows(x, 0, x.count, space.get()), request.block, padded_dim, out);
}

}  // namespace

// Mean values of runs of `size` tokens, at most a panel.
void pool_values(const StoredRows& v, Index size, Index padded_dim, const Units<float>& out) {
  float space[kPanel * kMaxDim];
  for (Index i = 0; i * size < v.count; ++i) {
    const Index count = std::min(size, v.count - i * size);
    pool_rows(Pooling::kMean, float_rows(v, i * size, count, space), 0, count, padded_dim, out[i]);
  }
}

// Pooled and rounded keys of the parts of the smallest nodes.
void round_parts(const StoredRows& k, const PackRequest& request, PackedHead& head) {
  const Index size = request.part();
  float space[kPanel * kMaxDim], part[kMaxDim];
  for (Index i = 0; i * size < k.count; ++i) {
    const Index count = std::min(size, k.count - i * size);
    pool_rows(request.pooling, float_rows(k, i * size, count, space), 0, count, head.padded_dim, part);
    round_part(part, i, head);
  }
}

void build_pyramid(const StoredRows& k, const StoredRows& v, const GivenNodes& given, const PackRequest& request,
                   PackedHead& head) {
  PackedPyramid& p = head.pyramid;
  if (p.levels == 0) return;
  const Index pd = head.padded_dim;
  pool_stored(k, given.keys, request, pd, p.level[0].keys.run);
  if (request.far_field) pool_stored(v, given.values, request, pd, p.level[0].values.run);
  if (request.tail) pool_values(v, request.part(), pd, tail_values(p, request.parts));
  if (!request.search) return;
  if (request.parts > 1) round_parts(k, request, head);
  for (int level = 0; level < p.levels; ++level) {
    const PackedLevel& at = p.level[level];
    const Index nodes = p.first[level + 1] - p.first[level];
    for (Index first = 0; first < nodes; first += kUnit) {
      round_lanes({at.keys[first], std::min(kUnit, nodes - first), head.dim, pd}, 0, pd, at.keys_int8[first / kUnit],
                  at.key_scales[first / kUnit]);
    }
  }
}

bool far_nodes_finite(const PackRequest& request, const PackedHead& head) {
  const PackedPyramid& p = head.pyramid;
  if (p.levels == 0) return true;
  const Index pd = head.padded_dim;
  const auto finite = [&](const Units<float>& table, Index rows) {
    return table.empty() || all_finite({table.run, rows, pd, pd});
  };
  if (request.tail) return finite(tail_values(p, request.parts), ceil_div(head.keys, request.part()));
  return !request.far_field || (finite(p.level[0].keys, p.rows()) && finite(p.level[0].values, p.rows()));
}

}  // namespace hsattn::cpu
