// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"
	"os"
)

// logger is what long-running commands hand to their parts. SKEP_DEBUG=1 shows per-object messages.
func logger() *slog.Logger {
	level := slog.LevelInfo
	if os.Getenv("SKEP_DEBUG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
