// Everything public.
#pragma once

#include "hsattn/attention/attention.h"
#include "hsattn/base/cpu.h"
#include "hsattn/base/elements.h"
#include "hsattn/base/error.h"
#include "hsattn/base/executor.h"
#include "hsattn/base/types.h"
#include "hsattn/base/view.h"
#include "hsattn/baselines/linear.h"
#include "hsattn/baselines/linformer.h"
#include "hsattn/cache/cache.h"
#include "hsattn/plan/options.h"
#include "hsattn/plan/plan.h"
#include "hsattn/plan/sequences.h"
#include "hsattn/pooling/pooler.h"
#include "hsattn/version.h"
