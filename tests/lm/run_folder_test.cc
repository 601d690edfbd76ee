#include "lm/train/run_folder.h"

#include <gtest/gtest.h>

#include "lm/data/files.h"
#include "lm/options/json_options.h"
#include "lm/train/options.h"
#include "tests/lm/temporary_folder.h"

namespace hsattn::lm {
namespace {

using test::message_of;
using test::TemporaryFolder;

void add_checkpoint(const RunFolder& run, Index step, Index keep) {
  write_file(run.begin_checkpoint(step) + "/model.safetensors", "x");
  run.finish_checkpoint(step, keep);
}

TEST(RunFolder, KeepsTheNewestCheckpoints) {
  const TemporaryFolder folder;
  const RunFolder run(folder.file("run"));
  run.create();
  for (const Index step : {5, 10, 100}) add_checkpoint(run, step, 2);
  EXPECT_EQ(run.checkpoint_steps(), (std::vector<Index>{10, 100}));
}

TEST(RunFolder, DoesNotCountACheckpointThatWasNotFinished) {
  const TemporaryFolder folder;
  const RunFolder run(folder.file("run"));
  run.create();
  add_checkpoint(run, 5, 2);
  write_file(run.begin_checkpoint(6) + "/model.safetensors", "half");
  EXPECT_EQ(run.checkpoint_steps(), (std::vector<Index>{5}));
  run.remove_unfinished();
  EXPECT_FALSE(std::filesystem::exists(run.checkpoint(6) + ".part"));
  EXPECT_TRUE(std::filesystem::exists(run.checkpoint(5)));
}

TEST(RunFolder, IsNotUsedTwice) {
  const TemporaryFolder folder;
  const RunFolder run(folder.file("run"));
  run.create();
  run.write_json("config.json", {});
  EXPECT_NE(message_of([&] { run.create(); }).find("--resume"), std::string::npos);
}

TEST(RunFolder, DropsMetricsAfterTheCheckpoint) {
  const TemporaryFolder folder;
  RunFolder run(folder.file("run"));
  run.create();
  folder.write("run/metrics.jsonl", "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"st");
  run.open_metrics(2);
  run.add_metrics({{"step", 3}, {"again", true}});
  EXPECT_EQ(read_file(folder.file("run/metrics.jsonl")), "{\"step\":1}\n{\"step\":2}\n{\"step\":3,\"again\":true}\n");
}

TEST(JsonOptions, RoundTripAndRefuseWhatIsUnknown) {
  TrainOptions options, read;
  options.data = "d", options.learning_rate = 0.25, options.model.attention.hsa.top_k = 64,
  options.checkpointing = true;
  from_json(to_json(options), read, "test");
  EXPECT_EQ(to_json(read), to_json(options));
  auto json = to_json(options);
  json["no_such"] = 1;
  EXPECT_NE(message_of([&] { from_json(json, read, "test"); }).find("no_such"), std::string::npos);
  json = to_json(options);
  json["steps"] = "many";
  EXPECT_NE(message_of([&] { from_json(json, read, "test"); }).find("steps"), std::string::npos);
}

TEST(ModelConfig, RefusesSizesThatDoNotFit) {
  const struct {
    const char* says;
    void (*apply)(ModelConfig& config);
  } cases[] = {{"heads", [](ModelConfig& c) { c.heads = 7; }},
               {"kv_heads", [](ModelConfig& c) { c.kv_heads = 4; }},
               {"layers", [](ModelConfig& c) { c.layers = 0; }},
               {"head dimension", [](ModelConfig& c) { c.heads = 1; }},
               {"attention", [](ModelConfig& c) { c.attention.attention = "magic"; }},
               {"block", [](ModelConfig& c) { c.attention.hsa.block = 3; }}};
  EXPECT_NO_THROW(check_model_config(ModelConfig()));
  for (const auto& c : cases) {
    ModelConfig config;
    c.apply(config);
    EXPECT_NE(message_of([&] { check_model_config(config); }).find(c.says), std::string::npos) << c.says;
  }
}

}  // namespace
}  // namespace hsattn::lm
