# find_package(hsattn CONFIG) defines the target hsattn::hsattn.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
include(${CMAKE_CURRENT_LIST_DIR}/hsattnTargets.cmake)
