# Sets HSATTN_VERSION, such as 0.1.0, from hsattn/version.h.
file(STRINGS ${CMAKE_CURRENT_LIST_DIR}/../hsattn/version.h _numbers REGEX "define HSATTN_VERSION_(MAJOR|MINOR|PATCH) ")
string(REGEX MATCHALL "[0-9]+" _numbers "${_numbers}")
list(JOIN _numbers . HSATTN_VERSION)
