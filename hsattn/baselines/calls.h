// What every baseline's calls share: heads of sequences as tasks, and rows that no task writes.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "hsattn/attention/attention.h"
#include "hsattn/attention/parts.h"
#include "hsattn/base/math.h"
#include "hsattn/kernels/cpu/rows.h"

namespace hsattn {

/// One key/value head of one sequence, and the query heads that share it.
struct HeadOfCall {
  Sequence sequence;
  Index number = 0;  // of the sequence
  Index kv_head = 0, group = 1;

  Index first_query_head() const { return kv_head * group; }

  /// Its rows as stored, of views of queries (with the group's heads) and of keys.
  cpu::StoredRows queries_of(const ConstView& v) const {
    return part_of(cpu::stored_rows(v, sequence.batch, first_query_head()), sequence.queries);
  }
  cpu::WritableRows queries_of(const View& v) const {
    return part_of(cpu::writable_rows(v, sequence.batch, first_query_head()), sequence.queries);
  }
  cpu::StoredRows keys_of(const ConstView& v) const {
    return part_of(cpu::stored_rows(v, sequence.batch, kv_head), sequence.keys);
  }
  cpu::WritableRows keys_of(const View& v) const {
    return part_of(cpu::writable_rows(v, sequence.batch, kv_head), sequence.keys);
  }

  /// The same as numbers of a type that is known; of query head `g` of the group.
  template <class T, class Pointer>
  Rows<T> query_rows(const BasicView<Pointer>& v, Index g) const {
    return part_of(rows_of<T>(v, sequence.batch, first_query_head() + g), sequence.queries);
  }
  template <class T, class Pointer>
  Rows<T> key_rows(const BasicView<Pointer>& v) const {
    return part_of(rows_of<T>(v, sequence.batch, kv_head), sequence.keys);
  }

 private:
  template <class Byte>
  static cpu::BasicStoredRows<Byte> part_of(cpu::BasicStoredRows<Byte> rows, Range range) {
    rows.data = rows.row(range.begin);
    rows.count = range.size();
    return rows;
  }
  template <class T>
  static Rows<T> part_of(Rows<T> rows, Range range) {
    return {rows.row(range.begin), range.size(), rows.dim, rows.stride};
  }
};

/// Each batch element as one sequence.
std::vector<Sequence> whole_sequences(const AttentionInputs& in);

enum class Heads { kThatAttend, kAll };  // those of sequences with queries and keys, or of all

/// Calls body for every key/value head of the sequences, long sequences first.
void for_each_head(const AttentionInputs& in, std::span<const Sequence> sequences, Executor& executor,
                   const std::function<void(const HeadOfCall&)>& body, Heads heads = Heads::kThatAttend);

/// Queries in no sequence, in one without keys or, if causal, at a position below 0.
std::vector<BatchRange> queries_that_see_nothing(const char* who, const AttentionInputs& in,
                                                 std::span<const Sequence> sequences, bool causal);

/// Keys in no sequence, or in one without queries.
std::vector<BatchRange> keys_of_none(const char* who, const AttentionInputs& in, std::span<const Sequence> sequences);

/// check_inputs(), and no nodes, which these methods do not have. Throws InvalidArgument.
void check_inputs_without_nodes(const char* who, const AttentionInputs& in);

/// What a call's with_memory_errors() names.
constexpr const char* kHeads = "heads of sequences";

}  // namespace hsattn
