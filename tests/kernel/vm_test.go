// SPDX-License-Identifier: Apache-2.0

// Package kernel boots the oldest kernel that skep supports in a virtual machine and runs parts of tests/datapath and tests/policy in it:
// every program is loaded, attached by clsact and given packets, random policies are judged by it and by the model, and truth tables are tried
// by sockets of SCTP, which it has as a module.
package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bootLimit bounds a whole run of a virtual machine. Software emulation needs about 6 s to boot and some tens of seconds for the
// verifier and the tests.
const bootLimit = 8 * time.Minute

// allSCTP has every truth table tried that SCTP has a part in, which takes some minutes more.
var allSCTP = os.Getenv("SKEP_SCTP_CASES") == "all"

// guests are the tests that run in the virtual machine, by package; emulation is slow, so of each kind one.
var guests = map[string]string{
	"datapath": "^(TestVerifierCostDoesNotGrow|TestFirstPacketsAreJudged|TestTwoPodsTalkThroughTheRealPrograms|" +
		"TestSocketsInTheCgroupAreBalanced|TestEstablishedConnectionsObeyNewPolicy|TestAuditCountsAndTellsButDoesNotBite|" +
		"TestQuestionsAreAnsweredLikePackets|TestWhatIsChangedByHandIsRepaired)$" +
		"/^(clsact|tcp_service|udp_service_IPv6|tcp_without_backends|from_a_pod|both_pods_are_local|a_row|a_block|all_prefixes)$",
	"policy": "^(TestRandomWorlds|TestRandomSequences|TestTruthTables|TestClusterTruthTables|TestSCTPTruthTables)$",
}

// guestCases is how many random packets are judged in the virtual machine.
const guestCases = 1500

// initScript is the first process of the guest. It prepares what a distribution would and hands over to the test.
const initScript = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t bpf bpf /sys/fs/bpf
/bin/busybox mount -t tmpfs tmp /sys/fs/cgroup
/bin/busybox mkdir -p /sys/fs/cgroup/unified /tmp
/bin/busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
for module in /modules/*.ko; do /bin/busybox insmod $module; done
/bin/busybox ip link set lo up
cd /
echo "guest: Linux $(/bin/busybox uname -r)"
# Nobody else is here: the tests need no namespaces of their own.
export SKEP_POLICY_TEST_NODE=1 SKEP_POLICY_CASES=$(/bin/busybox cat /cases) SKEP_SCTP_CASES=$(/bin/busybox cat /sctp)
for guest in /guests/*; do
	$guest/test -test.v -test.run "$(/bin/busybox cat $guest/run)" && echo guest: $(/bin/busybox basename $guest) passed || echo guest: $guest failed
done
/bin/busybox poweroff -f
`

// TestPrograms5_10 loads every program of the datapath on Debian's 5.10 kernel and asks it for verdicts.
func TestPrograms5_10(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a virtual machine")
	}
	kernel := fetch(t)
	dir := t.TempDir()
	console := boot(t, kernel, initramfs(t, dir, kernel))
	for line := range strings.Lines(console) {
		if strings.HasPrefix(line, "guest:") || strings.HasPrefix(line, "verifier:") || strings.Contains(line, "--- ") || strings.Contains(line, "cases in") || strings.Contains(line, "cells in") {
			t.Log(strings.TrimRight(line, "\n"))
		}
	}
	if !strings.Contains(console, "guest: Linux 5.10") {
		t.Fatalf("the virtual machine did not come up; its console:\n%s", console)
	}
	if strings.Contains(console, "--- SKIP") {
		t.Errorf("nothing may be skipped on 5.10; the console:\n%s", console)
	}
	for guest := range guests {
		if !strings.Contains(console, "guest: "+guest+" passed") {
			t.Errorf("the guest %s did not pass; the console:\n%s", guest, console)
		}
	}
}

// fetch returns the folder with the kernel and its modules. Without them nothing is known about 5.10, which must not look like a pass.
func fetch(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Fatal("qemu-system-x86_64 is not installed: make deps-kernel (-short leaves the virtual machine out)")
	}
	var stderr bytes.Buffer
	cmd := exec.Command("./fetch.sh")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("Debian's 5.10 kernel cannot be had: %v; make deps-kernel fetches it (-short leaves the virtual machine out)\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// buildGuests makes the test programs, each in a folder with the names of the tests to run.
func buildGuests(t *testing.T, root string) {
	t.Helper()
	for guest, tests := range guests {
		folder := filepath.Join(root, "guests", guest)
		build := exec.Command("go", "test", "-c", "-ldflags", "-s -w", "-o", filepath.Join(folder, "test"), "skep.dev/skep/tests/"+guest)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the guest %s: %v\n%s", guest, err, out)
		}
		if err := os.WriteFile(filepath.Join(folder, "run"), []byte(tests), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// initramfs packs busybox, the modules and the guest programs.
func initramfs(t *testing.T, dir, kernel string) string {
	t.Helper()
	root := filepath.Join(dir, "root")
	buildGuests(t, root)
	for _, folder := range []string{"bin", "proc", "sys", "dev", "modules", "testdata"} {
		if err := os.MkdirAll(filepath.Join(root, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]string{"/bin/busybox": "bin/busybox"}
	modules, err := filepath.Glob(filepath.Join(kernel, "*.ko"))
	if err != nil || len(modules) == 0 {
		t.Fatalf("no modules in %s: %v", kernel, err)
	}
	for _, module := range modules {
		files[module] = filepath.Join("modules", filepath.Base(module))
	}
	for from, to := range files {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, to), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"init": initScript, "cases": fmt.Sprint(guestCases), "sctp": os.Getenv("SKEP_SCTP_CASES"), "testdata/verifier.txt": recorded(t)} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	archive := filepath.Join(dir, "initramfs")
	pack := exec.Command("/bin/busybox", "sh", "-c", "find . | busybox cpio -o -H newc >"+archive)
	pack.Dir = root
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("pack the initramfs: %v\n%s", err, out)
	}
	return archive
}

// recorded is what the verifier's work on 5.10 is compared with.
func recorded(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("../datapath/testdata/verifier.txt")
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// boot runs the machine to its end and returns what it printed. It has no network device.
func boot(t *testing.T, kernel, initramfs string) string {
	t.Helper()
	limit := bootLimit
	if allSCTP {
		limit = time.Hour
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	began := time.Now()
	out, err := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-smp", "2",
		"-nographic", "-no-reboot", "-nic", "none", "-kernel", filepath.Join(kernel, "vmlinuz"), "-initrd", initramfs,
		"-append", "console=ttyS0 quiet panic=-1").CombinedOutput()
	if err != nil {
		t.Fatal(errors.Join(fmt.Errorf("the virtual machine: %w", err), ctx.Err()), "\n", string(out))
	}
	t.Logf("the virtual machine ran for %v", time.Since(began).Round(100*time.Millisecond))
	return strings.ReplaceAll(string(out), "\r", "")
}
