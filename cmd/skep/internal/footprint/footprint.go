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
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range clean(maps, program) {
		// The page cache may hold a program that was just built in pieces of 2 MB. One access would map all of such a
		// piece, so ask for small pages; a kernel without huge ones refuses, and need not be asked.
		_ = m.advise(unix.MADV_NOHUGEPAGE)
		if err := m.advise(unix.MADV_DONTNEED); err != nil {
			errs = append(errs, fmt.Errorf("release program pages: %w", err))
		}
	}
	return errors.Join(errs...)
}

type mapping struct{ start, end uintptr }

// advise is a plain madvise by address: there is no Go object behind a mapping of the program.
func (m mapping) advise(advice uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, advice); errno != 0 {
		return errno
	}
	return nil
}

// clean finds the mappings of the program's file, in the format of /proc/PID/smaps (proc_pid_smaps(5)), of which
// dropping a page loses nothing: those that are read-only and hold no page of their own. A linker's relocations are
// such pages, in a mapping that was made read-only afterwards.
func clean(smaps []byte, program string) []mapping {
	var found []mapping
	var candidate mapping
	lines := bufio.NewScanner(bytes.NewReader(smaps))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) > 1 && !strings.HasSuffix(fields[0], ":"):
			candidate = mapping{}
			if len(fields) > 5 && !strings.Contains(fields[1], "w") && strings.Join(fields[5:], " ") == program {
				// What cannot be read stays empty and is passed over.
				_, _ = fmt.Sscanf(fields[0], "%x-%x", &candidate.start, &candidate.end)
			}
		case len(fields) > 1 && fields[0] == "Anonymous:" && fields[1] == "0" && candidate.end != 0:
			found = append(found, candidate)
		}
	}
	return found
}
