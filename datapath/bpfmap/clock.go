// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Now reads the clock that programs stamp entries and events with.
func Now() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}
