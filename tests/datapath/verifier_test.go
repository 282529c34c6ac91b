// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"skep.dev/skep/datapath/loader"
	"skep.dev/skep/datapath/progtest"
)

// costFile has lines "KERNEL PROGRAM INSTRUCTIONS": what the verifier processed. More than tolerance above it fails; write
// it again with -update-cost after a change that is worth its price. A kernel without lines of its own is held to the
// costliest of the others, with more room, because verifiers differ.
const (
	costFile         = "testdata/verifier.txt"
	tolerance        = 1.10
	foreignTolerance = 1.50
)

var (
	updateCost = flag.Bool("update-cost", false, "write "+costFile+" for this kernel")
	processed  = regexp.MustCompile(`processed (\d+) insns`)
)

func TestVerifierCostDoesNotGrow(t *testing.T) {
	h := progtest.New(t, func(o *loader.Options) { o.LogLevel = ebpf.LogLevelStats })
	release := kernelRelease(t)
	measured := map[string]int{}
	for name, program := range h.Programs {
		if strings.HasPrefix(name, "skep_bench_") {
			continue // loaded only where test runs are not told where a packet comes from
		}
		match := processed.FindStringSubmatch(program.VerifierLog)
		if match == nil {
			t.Fatalf("%s: no count in the verifier's log %q", name, program.VerifierLog)
		}
		measured[name], _ = strconv.Atoi(match[1])
		fmt.Printf("verifier: %s %s %d\n", release, name, measured[name])
	}
	if *updateCost {
		writeCost(t, release, measured)
	}
	for _, fault := range costFaults(readCost(t), release, measured) {
		t.Error(fault)
	}
}

// costFaults names the programs that cost more than they may on a kernel.
func costFaults(recorded map[string]map[string]int, release string, measured map[string]int) []string {
	limits, factor := recorded[release], tolerance
	if len(limits) == 0 {
		limits, factor = costliest(recorded), foreignTolerance
	}
	var faults []string
	for name, n := range measured {
		limit, known := limits[name]
		if !known {
			faults = append(faults, fmt.Sprintf("%s is not in %s", name, costFile))
		} else if float64(n) > factor*float64(limit) {
			faults = append(faults, fmt.Sprintf("%s: %d instructions on Linux %s, %d recorded", name, n, release, limit))
		}
	}
	slices.Sort(faults)
	return faults
}

// costliest is the largest number of each program over all kernels.
func costliest(recorded map[string]map[string]int) map[string]int {
	out := map[string]int{}
	for _, programs := range recorded {
		for name, n := range programs {
			out[name] = max(out[name], n)
		}
	}
	return out
}

func TestCostIsHeldOnEveryKernel(t *testing.T) {
	recorded := map[string]map[string]int{"5.10": {"a": 100, "b": 1000}, "6.18": {"a": 200, "b": 500}}
	for _, c := range []struct {
		name, release string
		measured      map[string]int
		want          string
	}{
		{"as recorded", "6.18", map[string]int{"a": 200, "b": 500}, ""},
		{"within the tolerance", "6.18", map[string]int{"a": 219}, ""},
		{"above it", "6.18", map[string]int{"a": 200, "b": 551}, "b: 551 instructions on Linux 6.18, 500 recorded"},
		{"another kernel's number does not excuse", "5.10", map[string]int{"a": 200}, "a: 200 instructions on Linux 5.10, 100 recorded"},
		{"an unknown kernel, like the costliest", "6.1", map[string]int{"a": 299, "b": 1400}, ""},
		{"an unknown kernel, above every other", "6.1", map[string]int{"a": 301, "b": 1501}, "a: 301 instructions on Linux 6.1, 200 recorded b: 1501 instructions on Linux 6.1, 1000 recorded"},
		{"a program without a number", "6.1", map[string]int{"c": 1}, "c is not in " + costFile},
	} {
		if got := strings.Join(costFaults(recorded, c.release, c.measured), " "); got != c.want {
			t.Errorf("%s: %q, not %q", c.name, got, c.want)
		}
	}
}

func kernelRelease(t *testing.T) string {
	var name unix.Utsname
	must(t, unix.Uname(&name))
	major, rest, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), ".")
	minor, _, _ := strings.Cut(rest, ".")
	return major + "." + minor
}

func readCost(t *testing.T) map[string]map[string]int {
	content, err := os.ReadFile(costFile)
	must(t, err)
	out := map[string]map[string]int{}
	for line := range strings.Lines(string(content)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var release, name string
		var n int
		if _, err := fmt.Sscan(line, &release, &name, &n); err != nil {
			t.Fatalf("%s: %q: %v", costFile, line, err)
		}
		if out[release] == nil {
			out[release] = map[string]int{}
		}
		out[release][name] = n
	}
	return out
}

func writeCost(t *testing.T, release string, measured map[string]int) {
	all := readCost(t)
	all[release] = measured
	var lines []string
	for release, programs := range all {
		for name, n := range programs {
			lines = append(lines, fmt.Sprintf("%s %s %d\n", release, name, n))
		}
	}
	slices.Sort(lines)
	var out bytes.Buffer
	out.WriteString("# kernel, program, instructions that the verifier processed\n")
	for _, line := range lines {
		out.WriteString(line)
	}
	must(t, os.WriteFile(costFile, out.Bytes(), 0o644))
}
