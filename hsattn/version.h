// The version: CMake, pkg-config and the Python package read it here.
#pragma once

#define HSATTN_VERSION_MAJOR 0
#define HSATTN_VERSION_MINOR 1
#define HSATTN_VERSION_PATCH 0

/// The three numbers as text: "0.1.0".
#define HSATTN_VERSION_STRING \
  HSATTN_TEXT_OF(HSATTN_VERSION_MAJOR) "." HSATTN_TEXT_OF(HSATTN_VERSION_MINOR) "." HSATTN_TEXT_OF(HSATTN_VERSION_PATCH)
#define HSATTN_TEXT_OF(number) HSATTN_TEXT_OF_TOKEN(number)
#define HSATTN_TEXT_OF_TOKEN(token) #token
