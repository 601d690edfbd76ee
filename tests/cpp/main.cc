// Runs the tests. HSATTN_ISA chooses the kernels; a processor that lacks them gives the exit status 77: skipped.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "hsattn/hsattn.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  constexpr int kSkipped = 77;
  try {
    std::cout << "kernels: " << hsattn::name_of(hsattn::selected_isa()) << " on " << hsattn::describe_processor()
              << "\n";
  } catch (const hsattn::Unsupported& error) {
    std::cout << "skipped: " << error.what() << "\n";
    return kSkipped;
  }
  const int status = RUN_ALL_TESTS();
  if (::testing::UnitTest::GetInstance()->test_to_run_count() == 0) {
    std::cerr << "no test matches the filter\n";
    return EXIT_FAILURE;
  }
  return status;
}
