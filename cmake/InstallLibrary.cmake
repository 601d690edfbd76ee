# `cmake --install`: the library, its public headers, a CMake package and a pkg-config file. All paths in them are
# relative, so the folder may be moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(_package ${CMAKE_INSTALL_LIBDIR}/cmake/hsattn)
# CMake before 3.23 knows no file sets and takes the folder of headers from INCLUDES.
install(TARGETS hsattn EXPORT hsattn FILE_SET HEADERS INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT hsattn NAMESPACE hsattn:: DESTINATION ${_package} FILE hsattnTargets.cmake)

# Before 1.0 a new minor version may change what programs rely on.
write_basic_package_version_file(hsattnConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_SOURCE_DIR}/cmake/hsattnConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/hsattnConfigVersion.cmake
        DESTINATION ${_package})

file(RELATIVE_PATH _libdir ${CMAKE_INSTALL_PREFIX} ${CMAKE_INSTALL_FULL_LIBDIR})
string(REGEX REPLACE "[^/]+" ".." HSATTN_UP_TO_PREFIX ${_libdir}/pkgconfig)
configure_file(${PROJECT_SOURCE_DIR}/cmake/hsattn.pc.in hsattn.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/hsattn.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
