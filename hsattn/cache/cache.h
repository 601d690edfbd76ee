// Keys and values of sequences that grow, packed as the kernels want them: decoding without packing the past again.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "hsattn/attention/attention.h"
#include "hsattn/base/executor.h"
#include "hsattn/base/view.h"
#include "hsattn/plan/options.h"

namespace hsattn {

/// What a cache holds: the keys and values of one layer.
struct CacheOptions {
  Index kv_heads = 0;
  Index dim = 0;                  ///< 8..256
  DType dtype = DType::kFloat32;  ///< of k, v and q: float32, bfloat16 or float16
  /// What attend() will be asked for: pattern, block, levels, pooling and far field decide which tables are kept.
  PlanOptions plan = {};
  Index page = 256;  ///< tokens of a page: a power of two from 64 to 65536
  /// Keeps keys rounded to bytes for rescoring, which is faster; else candidates are rounded each time they are scored.
  /// Unset: kept (13 % of keys and values in float32, dim 64), but not for bfloat16 where the processor multiplies
  /// pairs of them (27 %).
  std::optional<bool> rounded_keys = {};
};

/// A cache for one layer and any number of sequences of different lengths. Its pyramid grows with it: a node is made
/// when its last token arrives and then never changes. Memory is in pages that sequences share until one of them
/// writes.
///
/// attend() gives what attention_forward() over the whole sequence gives, bit by bit, however the sequence was cut into
/// calls. A cache is causal, and pools means or maxima itself. One thread at a time may use a cache.
///
/// Calls throw InvalidArgument if shapes, types or numbers of sequences do not fit, OutOfMemory if pages cannot be had;
/// they leave the cache as it was then.
class KeyValueCache {
 public:
  /// `sequences` empty ones. Throws Unsupported besides, for float64 and for a plan that is bidirectional.
  explicit KeyValueCache(const CacheOptions& options, Index sequences = 1);
  ~KeyValueCache();
  KeyValueCache(KeyValueCache&&) noexcept;
  KeyValueCache& operator=(KeyValueCache&&) noexcept;

  const CacheOptions& options() const;
  Index sequences() const;
  Index length(Index sequence) const;  ///< in tokens
  /// Memory of all pages, each counted once however many sequences share it.
  Index bytes() const;

  /// Tokens at the end of one sequence: k, v [1, kv_heads, tokens, dim], any strides, last one 1.
  void append(Index sequence, const ConstView& k, const ConstView& v, Executor& executor = serial_executor());
  /// At the end of every sequence: k, v [sequences, kv_heads, tokens, dim].
  void append(const ConstView& k, const ConstView& v, Executor& executor = serial_executor());

  /// Forgets the tokens from `length` on. O(pages dropped).
  void crop(Index sequence, Index length);
  /// A new, last sequence with the tokens of this one. They share pages; O(pages). Returns its number.
  Index fork(Index sequence);
  /// Sequence i becomes what sequence parents[i] was; there are as many sequences as parents then. For beams, and to
  /// drop sequences.
  void reorder(std::span<const Index> parents);

  /// Attention of the last tokens of each of these sequences, whose keys and values have been appended: query i of
  /// `queries` stands at length - queries + i.
  ///   q          [sequences.size(), heads, queries, dim]; heads is a multiple of kv_heads
  ///   out.o      as q; out.lse [sequences.size(), heads, queries] or null
  ///   keep       null, or where lists go: [sequences.size(), kv_heads, queries, plan_shape(...).slots()]
  /// `plan` may have other budgets than options().plan, but needs no table that is not kept: the same block and pooling
  /// if it searches, and a far field only if the cache has one.
  void attend(std::span<const Index> sequences, const ConstView& q, const PlanOptions& plan,
              std::optional<double> scale, const AttentionOutputs& out, std::int32_t* keep = nullptr,
              Executor& executor = serial_executor());
  /// Of every sequence, with options().plan.
  void attend(const ConstView& q, std::optional<double> scale, const AttentionOutputs& out,
              Executor& executor = serial_executor());

  /// The keys and values of a sequence's tokens as they were appended: k, v [1, kv_heads, tokens, dim], from token
  /// `first` on.
  void copy_tokens(Index sequence, Index first, const View& k, const View& v) const;

  /// Writes a file beside `path`, syncs it and renames it. It holds plain keys and values, so that it can be loaded on
  /// another processor; pages that are shared are not shared any more.
  void save(const std::string& path) const;
  /// Reads what save() wrote. The file is not trusted: FileError says what is wrong with it, before memory of the size
  /// that it names is asked for.
  static KeyValueCache load(const std::string& path);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace hsattn
