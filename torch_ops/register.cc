// Schemas of the ops and their CPU kernels. Shape functions and autograd: python/hsattn/_ops.py.
#include "torch/csrc/stable/library.h"
#include "torch_ops/ops.h"

STABLE_TORCH_LIBRARY(hsattn, m) {
  m.def(
      "attention_forward(Tensor q, Tensor k, Tensor v, Tensor? plan, str pattern, bool causal, int[] budgets, "
      "float? scale, bool keep_plan, Tensor? sequences=None, Tensor? pooled_k=None, Tensor? pooled_v=None) -> (Tensor "
      "o, Tensor lse, Tensor kept)");
  m.def(
      "attention_no_grad(Tensor q, Tensor k, Tensor v, Tensor? plan, str pattern, bool causal, int[] budgets, "
      "float? scale, Tensor? sequences=None, Tensor? pooled_k=None, Tensor? pooled_v=None) -> (Tensor o, Tensor lse)");
  m.def(
      "attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse, Tensor kept, str pattern, "
      "bool causal, int[] budgets, float? scale, Tensor? sequences=None, Tensor? pooled_k=None, Tensor? pooled_v=None) "
      "-> "
      "(Tensor dq, Tensor dk, Tensor dv, Tensor dpooled_k, Tensor dpooled_v)");
  m.def(
      "make_plan(Tensor q, Tensor k, str pattern, bool causal, int[] budgets, float? scale, "
      "Tensor? sequences=None, Tensor? pooled_k=None) -> Tensor");
  m.def(
      "pool_forward(Tensor k, Tensor v, Tensor parameters, str pooling, int block, Tensor? sequences=None) -> (Tensor "
      "pooled_k, Tensor pooled_v)");
  m.def(
      "pool_backward(Tensor dpooled_k, Tensor dpooled_v, Tensor k, Tensor v, Tensor parameters, str pooling, int "
      "block, Tensor? sequences=None) -> (Tensor dk, Tensor dv, Tensor dparameters)");
  m.def("initial_pooler(Tensor like, str pooling) -> Tensor");
  m.def(
      "linear_attention_forward(Tensor q, Tensor k, Tensor v, Tensor? features, bool causal, float? scale, "
      "Tensor? sequences=None) -> Tensor");
  m.def(
      "linear_attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor o, Tensor? features, bool causal, "
      "float? scale, Tensor? sequences=None) -> (Tensor dq, Tensor dk, Tensor dv)");
  m.def(
      "linear_attention_step(Tensor q, Tensor k, Tensor v, Tensor? features, float? scale, Tensor? state, "
      "Tensor? sequences=None) -> (Tensor o, Tensor after)");
  m.def(
      "linformer_forward(Tensor q, Tensor k, Tensor v, Tensor project_keys, Tensor project_values, int segment, "
      "bool causal, float? scale, Tensor? sequences=None) -> (Tensor o, Tensor lse)");
  m.def(
      "linformer_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse, Tensor project_keys, "
      "Tensor project_values, int segment, bool causal, float? scale, Tensor? sequences=None) -> (Tensor dq, Tensor "
      "dk, "
      "Tensor dv, Tensor dproject_keys, Tensor dproject_values)");
  m.def("draw_features(Tensor(a!) out, int seed) -> ()");
  m.def("packed_sequences(Tensor first_queries, Tensor? first_keys) -> Tensor");
  m.def("padded_sequences(Tensor mask, int queries) -> Tensor");
  m.def(
      "cache_new(int sequences, int kv_heads, int dim, str dtype, str pattern, int[] budgets, int page, "
      "bool? rounded_keys) -> int");
  m.def("cache_free(int handle) -> ()");
  m.def("cache_append(int handle, Tensor k, Tensor v, int? sequence) -> ()");
  m.def(
      "cache_attend(int handle, Tensor q, int[] sequences, str pattern, int[] budgets, float? scale) -> (Tensor o, "
      "Tensor lse)");
  m.def("cache_tokens(int handle, Tensor like, int sequence) -> (Tensor k, Tensor v)");
  m.def("cache_crop(int handle, int sequence, int length) -> ()");
  m.def("cache_fork(int handle, int sequence) -> int");
  m.def("cache_reorder(int handle, int[] parents) -> ()");
  m.def("cache_lengths(int handle) -> int[]");
  m.def("cache_bytes(int handle) -> int");
  m.def("cache_save(int handle, str path) -> ()");
  m.def("cache_load(str path) -> int");
  m.def("cache_options(int handle) -> (str dtype, str pattern, int[] budgets)");
  m.def("preset(str name) -> int[]");
  m.def("dense_until(Tensor q, int[] budgets) -> int");
  m.def("plan_slots(str pattern, bool causal, int[] budgets) -> int");
  m.def(
      "plan_map(Tensor plan, str pattern, bool causal, int[] budgets, int[] sizes, int batch, int kv_head, int first, "
      "int count) -> Tensor");
  m.def("describe_plan(Tensor plan, str pattern, bool causal, int[] budgets, int[] sizes) -> str");
  m.def("check_plan(Tensor plan, str pattern, bool causal, int[] budgets, int[] sizes) -> str");
}

STABLE_TORCH_LIBRARY_IMPL(hsattn, CPU, m) {
  m.impl("attention_forward", TORCH_BOX(&hsattn::torch_ops::attention_forward));
  m.impl("attention_no_grad", TORCH_BOX(&hsattn::torch_ops::attention_no_grad));
  m.impl("attention_backward", TORCH_BOX(&hsattn::torch_ops::attention_backward));
  m.impl("make_plan", TORCH_BOX(&hsattn::torch_ops::make_plan));
  m.impl("pool_forward", TORCH_BOX(&hsattn::torch_ops::pool_forward));
  m.impl("pool_backward", TORCH_BOX(&hsattn::torch_ops::pool_backward));
  m.impl("initial_pooler", TORCH_BOX(&hsattn::torch_ops::initial_pooler));
  m.impl("linear_attention_forward", TORCH_BOX(&hsattn::torch_ops::linear_attention_forward));
  m.impl("linear_attention_backward", TORCH_BOX(&hsattn::torch_ops::linear_attention_backward));
  m.impl("linear_attention_step", TORCH_BOX(&hsattn::torch_ops::linear_attention_step));
  m.impl("linformer_forward", TORCH_BOX(&hsattn::torch_ops::linformer_forward));
  m.impl("linformer_backward", TORCH_BOX(&hsattn::torch_ops::linformer_backward));
  m.impl("draw_features", TORCH_BOX(&hsattn::torch_ops::draw_features));
  m.impl("packed_sequences", TORCH_BOX(&hsattn::torch_ops::packed_sequences));
  m.impl("padded_sequences", TORCH_BOX(&hsattn::torch_ops::padded_sequences));
  m.impl("cache_append", TORCH_BOX(&hsattn::torch_ops::cache_append));
  m.impl("cache_attend", TORCH_BOX(&hsattn::torch_ops::cache_attend));
  m.impl("cache_tokens", TORCH_BOX(&hsattn::torch_ops::cache_tokens));
  m.impl("dense_until", TORCH_BOX(&hsattn::torch_ops::dense_until));
  m.impl("plan_map", TORCH_BOX(&hsattn::torch_ops::plan_map));
  m.impl("describe_plan", TORCH_BOX(&hsattn::torch_ops::describe_plan));
  m.impl("check_plan", TORCH_BOX(&hsattn::torch_ops::check_plan_lists));
}

// No tensor among its arguments, so no device decides.
STABLE_TORCH_LIBRARY_IMPL(hsattn, CompositeExplicitAutograd, m) {
  m.impl("cache_new", TORCH_BOX(&hsattn::torch_ops::cache_new));
  m.impl("cache_free", TORCH_BOX(&hsattn::torch_ops::cache_free));
  m.impl("cache_crop", TORCH_BOX(&hsattn::torch_ops::cache_crop));
  m.impl("cache_fork", TORCH_BOX(&hsattn::torch_ops::cache_fork));
  m.impl("cache_reorder", TORCH_BOX(&hsattn::torch_ops::cache_reorder));
  m.impl("cache_lengths", TORCH_BOX(&hsattn::torch_ops::cache_lengths));
  m.impl("cache_bytes", TORCH_BOX(&hsattn::torch_ops::cache_bytes));
  m.impl("cache_save", TORCH_BOX(&hsattn::torch_ops::cache_save));
  m.impl("cache_load", TORCH_BOX(&hsattn::torch_ops::cache_load));
  m.impl("cache_options", TORCH_BOX(&hsattn::torch_ops::cache_options));
  m.impl("preset", TORCH_BOX(&hsattn::torch_ops::preset));
  m.impl("plan_slots", TORCH_BOX(&hsattn::torch_ops::plan_slots));
}
