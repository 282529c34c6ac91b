// SPDX-License-Identifier: Apache-2.0

// Package footprint keeps the resident memory of long-running commands near what they use. One binary holds all of
// skep, and the start of each process runs the initialisation of everything in it once: memory and pages of program
// text that are never looked at again.
package footprint

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// settled is when the start of any command is over.
const settled = 15 * time.Second

// TrimWhenSettled gives memory back once the start is over. It returns at once if the context ends first.
func TrimWhenSettled(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(settled):
		return Trim()
	}
}

// Trim returns free heap to the kernel and unmaps the pages of this program's file that it has touched. They stay in
// the page cache, and those that are still in use come back at the cost of a minor fault each.
func Trim() error {
	debug.FreeOSMemory()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range clean(maps, program) {
		// A plain madvise by address: there is no Go object behind a mapping of the program.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			errs = append(errs, fmt.Errorf("release program pages: %w", errno))
		}
	}
	return errors.Join(errs...)
}

type mapping struct{ start, end uintptr }

// clean finds the read-only mappings of the program's file (proc_pid_maps(5)): dropping one of their pages loses nothing.
func clean(maps []byte, program string) []mapping {
	var found []mapping
	lines := bufio.NewScanner(bytes.NewReader(maps))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || strings.Contains(fields[1], "w") || strings.Join(fields[5:], " ") != program {
			continue
		}
		var m mapping
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &m.start, &m.end); err == nil {
			found = append(found, m)
		}
	}
	return found
}
