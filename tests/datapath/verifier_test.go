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
// it again with -update-cost after a change that is worth its price.
const (
	costFile  = "testdata/verifier.txt"
	tolerance = 1.10
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
	recorded := readCost(t)
	if len(recorded[release]) == 0 {
		t.Skipf("%s has no numbers of Linux %s", costFile, release)
	}
	for name, n := range measured {
		limit, known := recorded[release][name]
		if !known {
			t.Errorf("%s is not in %s", name, costFile)
		} else if float64(n) > tolerance*float64(limit) {
			t.Errorf("%s: %d instructions, %d recorded", name, n, limit)
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
