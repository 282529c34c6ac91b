// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is one long-lived process of a cluster.
type process struct {
	name string
	path string
	args []string // without argv[0]
	// netns is the name of its network namespace, empty for the host's.
	netns string
	// cgroup is relative to the root of each hierarchy.
	cgroup string
	// files are handed over as descriptors 3 and up. Only a new start uses them.
	files []*os.File
}

// record identifies a started process beyond doubt: a process id that was used again has another start time.
type record struct {
	PID       int      `json:"pid"`
	StartTime uint64   `json:"startTime"` // clock ticks since boot
	BootID    string   `json:"bootID"`
	Path      string   `json:"path"`
	Args      []string `json:"args"`
}

func (c Cluster) recordFile(name string) string {
	return filepath.Join(c.RunDir(), "pid", name+".json")
}

// records returns what was started, by name.
func (c Cluster) records() map[string]record {
	files, _ := filepath.Glob(c.recordFile("*")) // a cluster's name has no pattern characters
	all := map[string]record{}
	for _, f := range files {
		var r record
		raw, err := os.ReadFile(f)
		if err == nil && json.Unmarshal(raw, &r) == nil {
			all[strings.TrimSuffix(filepath.Base(f), ".json")] = r
		}
	}
	return all
}

// alive reports whether the recorded process still runs.
func (r record) alive() bool {
	start, state, err := processStat(r.PID)
	return err == nil && state != 'Z' && start == r.StartTime && r.BootID == bootID()
}

// current reports whether the process runs p as it is on disk now: same arguments, same binary.
func (r record) current(p process) bool {
	if r.Path != p.path || !slices.Equal(r.Args, p.args) {
		return false
	}
	running, err := os.Stat(fmt.Sprintf("/proc/%d/exe", r.PID))
	if err != nil {
		return false
	}
	onDisk, err := os.Stat(p.path)
	return err == nil && os.SameFile(running, onDisk)
}

// ensure starts p unless it runs already. A process with other arguments or of another binary is replaced,
// which is how an upgrade of a local cluster happens. It reports whether p was started.
func (c Cluster) ensure(cs cgroups, p process) (started bool, err error) {
	if r, ok := c.records()[p.name]; ok && r.alive() {
		if r.current(p) {
			return false, nil
		}
		if err := stop(r, 10*time.Second); err != nil {
			return false, fmt.Errorf("replace %s: %w", p.name, err)
		}
	}
	r, err := start(cs, p, c.LogFile(p.name))
	if err != nil {
		return false, fmt.Errorf("start %s: %w", p.name, err)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	return true, writeFile(c.recordFile(p.name), raw, 0o644)
}

// start runs p in a session of its own, in its namespace and cgroups from its first instruction on: socket-level
// programs attach to the cgroup and would miss sockets made before a later move.
func start(cs cgroups, p process, logFile string) (record, error) {
	log, err := openLog(logFile)
	if err != nil {
		return record{}, err
	}
	defer log.Close()
	if err := cs.ensure(p.cgroup); err != nil {
		return record{}, err
	}
	cmd := exec.Command(p.path, p.args...)
	cmd.Dir = "/"
	cmd.Env = environment(os.Environ(), p.netns == "")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = p.files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if mount, ok := cs.unified(); ok {
		dir, err := os.Open(filepath.Join(mount, p.cgroup))
		if err != nil {
			return record{}, err
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(dir.Fd())
	}
	err = onThread(func() error {
		if err := cs.enterV1(p.cgroup); err != nil {
			return err
		}
		if p.netns != "" {
			if err := enterNetns(p.netns); err != nil {
				return err
			}
		}
		return cmd.Start()
	})
	if err != nil {
		return record{}, err
	}
	go func() { _ = cmd.Wait() }() // reaped while this program lives; its end is seen through the record
	started, _, err := processStat(cmd.Process.Pid)
	if err != nil {
		return record{}, fmt.Errorf("ended at once; see %s", logFile)
	}
	return record{PID: cmd.Process.Pid, StartTime: started, BootID: bootID(), Path: p.path, Args: p.args}, nil
}

// environment is what a process of the cluster inherits: settings that a service manager would give, and nothing of the user's
// shell. Only one in the host's namespace, which pulls images, can reach the user's proxies; the others would ask them for the API.
func environment(env []string, proxies bool) []string {
	keep := []string{"PATH", "HOME", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR"}
	if proxies {
		keep = append(keep, "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
	}
	var out []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if slices.Contains(keep, name) {
			out = append(out, e)
		}
	}
	return out
}

// stop ends the recorded process: asked first, made to after grace. Absence is not an error.
func stop(r record, grace time.Duration) error {
	if !r.alive() {
		return nil
	}
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", r.PID, err)
	}
	defer unix.Close(fd)
	if !r.alive() { // the descriptor may have caught a successor with the same id
		return nil
	}
	_ = unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0) // an error means that it is gone, which the wait sees
	if waitExit(fd, grace) {
		return nil
	}
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	if !waitExit(fd, 10*time.Second) {
		return fmt.Errorf("process %d does not end, even when killed", r.PID)
	}
	return nil
}

// waitExit waits until the process behind the descriptor has ended.
func waitExit(pidfd int, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(max(0, time.Until(deadline).Milliseconds())))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && n == 1
	}
}

// processStat reads the start time and the state of a process (proc_pid_stat(5), fields 22 and 3). The name in
// field 2 may hold anything, so counting begins after its closing bracket.
func processStat(pid int) (start uint64, state byte, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	end := bytes.LastIndexByte(raw, ')')
	fields := strings.Fields(string(raw[end+1:]))
	if end < 0 || len(fields) < 20 {
		return 0, 0, fmt.Errorf("process %d: unexpected stat line", pid)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0][0], err
}

func bootID() string {
	raw, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // absent: all records look alike, as before a reboot
	return strings.TrimSpace(string(raw))
}

func openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
}

// tail returns the last lines of a file, for an error message.
func tail(path string, lines int) string {
	const enough, maxLine = 64 << 10, 600
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if end, err := f.Seek(0, 2); err == nil && end > enough {
		_, _ = f.Seek(-enough, 2)
	} else {
		_, _ = f.Seek(0, 0)
	}
	var b bytes.Buffer
	_, _ = b.ReadFrom(f)
	all := strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
	all = all[max(0, len(all)-lines):]
	for i, line := range all {
		if len(line) > maxLine {
			all[i] = line[:maxLine/2] + " ... " + line[len(line)-maxLine/2:]
		}
	}
	return strings.Join(all, "\n")
}
