// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// settle is how long an idle cluster is left alone before its memory is read.
const settle = 30 * time.Second

// benchMemory prints the resident memory, file-mapped text included, of the processes of node 1.
func (c *cluster) benchMemory(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settle):
	}
	var sum float64
	for _, part := range []string{"server", "agent"} {
		pid, err := c.process(part)
		if err != nil {
			return err
		}
		resident, anonymous, err := memory(pid)
		if err != nil {
			return err
		}
		sum += resident
		row("idle memory of skep "+part, "%.0f MB resident, %.0f MB of it anonymous", resident, anonymous)
	}
	row("idle memory of server and agent", "%.0f MB (bar 200 MB)", sum)
	if pid, err := c.process("dns"); err == nil {
		resident, anonymous, err := memory(pid)
		if err != nil {
			return err
		}
		row("idle memory of skep dns", "%.0f MB resident, %.0f MB of it anonymous", resident, anonymous)
	}
	return nil
}

// process finds a process of the cluster by the subcommand it runs; where several run, the first.
func (c *cluster) process(subcommand string) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		commandLine, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil {
			continue
		}
		cgroup, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cgroup"))
		arguments := strings.Split(string(commandLine), "\x00")
		ours := bytes.Contains(commandLine, []byte("/"+c.name+"/")) || bytes.Contains(cgroup, []byte("/skep/"+c.name+"/"))
		if ours && len(arguments) > 1 && arguments[1] == subcommand {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no skep %s of cluster %s is running", subcommand, c.name)
}

// memory returns resident and anonymous megabytes of a process.
func memory(pid int) (resident, anonymous float64, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(raw)) {
		var kilobytes float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kilobytes); err == nil {
			resident = kilobytes / 1000 * 1.024
		}
		if _, err := fmt.Sscanf(line, "RssAnon: %f kB", &kilobytes); err == nil {
			anonymous = kilobytes / 1000 * 1.024
		}
	}
	return resident, anonymous, nil
}

// startTime reads when a process was started, to the kernel's 10 ms.
func startTime(pid int) (time.Time, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Time{}, err
	}
	// The second field may hold spaces; what follows its closing parenthesis does not.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	const startField, ticksPerSecond = 19, 100
	ticks, err := strconv.ParseInt(fields[startField], 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	uptime, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return time.Time{}, err
	}
	up, err := strconv.ParseFloat(strings.Fields(string(uptime))[0], 64)
	if err != nil {
		return time.Time{}, err
	}
	boot := time.Now().Add(-time.Duration(up * float64(time.Second)))
	return boot.Add(time.Duration(ticks) * time.Second / ticksPerSecond), nil
}
