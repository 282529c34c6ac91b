// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"skep.dev/skep/cmd/skep/internal/preflight"
)

// DefaultAPIPort is where the host reaches the API, if the port is free.
const DefaultAPIPort = 6443

// securePort is where the API server listens inside the first node.
const securePort = 6443

// Config says which cluster to start and how.
type Config struct {
	Name string
	// Nodes is the number of nodes; 0 keeps what the cluster has, or 1. A running cluster can only grow.
	Nodes int
	// APIPort is the port on 127.0.0.1; 0 keeps what the cluster has, or takes 6443 or else any free one.
	APIPort int
	// Executable is this binary; the cluster's processes run it.
	Executable string
	// Issue makes a node's credentials folder unless it holds valid ones, signed by the CA in pkiDir.
	Issue func(pkiDir string, n Node, serverURL string) error
	// UnsafeNoFsync lets etcd trust memory, for tests that throw the cluster away.
	UnsafeNoFsync bool
	// Timeout bounds the whole start; 0 is 3 minutes.
	Timeout time.Duration
	// Out receives progress for a person.
	Out io.Writer
}

// Up starts the cluster, or what is missing of it, and returns when it is ready to use.
func Up(ctx context.Context, cfg Config) error {
	if cfg.Timeout == 0 {
		cfg.Timeout = 3 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	if err := ValidateName(cfg.Name); err != nil {
		return err
	}
	if err := preflight.Run(preflight.Root, preflight.Kernel, preflight.BPF, preflight.Cgroup2, preflight.Binaries("containerd", "runc")); err != nil {
		return err
	}
	c := Cluster{Name: cfg.Name}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	u := &upRun{Cluster: c, cfg: cfg, progress: newProgress(cfg.Out)}
	if err := u.run(ctx); err != nil {
		c.removeEmptyFolders()
		return u.explain(err)
	}
	return nil
}

// removeEmptyFolders takes the folder of the lock away again when nothing else was made.
func (c Cluster) removeEmptyFolders() {
	for _, dir := range []string{c.RunDir(), runRoot} {
		_ = os.Remove(dir) // refused while it is in use
	}
}

// upRun is one run of Up.
type upRun struct {
	Cluster
	cfg      Config
	state    State
	cgroups  cgroups
	progress *progress
}

func (u *upRun) run(ctx context.Context) (err error) {
	if u.cgroups, err = mountedCgroups(); err != nil {
		return err
	}
	listener, err := u.decide()
	if err != nil {
		return err
	}
	if listener != nil {
		defer listener.Close()
	}
	if err := u.foundation(); err != nil {
		return err
	}
	if err := u.startProcesses(listener); err != nil {
		return err
	}
	return u.waitReady(ctx)
}

// decide settles the number of nodes and the API port and records them. It returns the listener of the
// port unless the running forwarder has it.
func (u *upRun) decide() (*os.File, error) {
	s, err := u.ReadState()
	fresh := errors.Is(err, os.ErrNotExist)
	if err != nil && !fresh {
		return nil, err
	}
	if u.cfg.Nodes < 0 || u.cfg.Nodes > MaxNodes {
		return nil, fmt.Errorf("%d nodes: one machine holds 1 to %d", u.cfg.Nodes, MaxNodes)
	}
	if u.cfg.Nodes != 0 && u.cfg.Nodes < s.Nodes {
		return nil, fmt.Errorf("cluster %q has %d nodes and cannot shrink to %d: run \"skep down --name %s\" first", u.Name, s.Nodes, u.cfg.Nodes, u.Name)
	}
	s.Nodes = max(1, s.Nodes, u.cfg.Nodes)
	listener, err := u.decidePort(&s)
	if err != nil {
		return nil, err
	}
	u.state = s
	if err := os.MkdirAll(u.DataDir(), 0o755); err != nil {
		return nil, err
	}
	if err := u.mountBPF(); err != nil {
		return nil, err
	}
	return listener, u.writeState(u.state)
}

func (u *upRun) decidePort(s *State) (*os.File, error) {
	wanted, anyPort := u.cfg.APIPort, false
	if wanted == 0 {
		wanted = s.APIPort
	}
	if wanted == 0 {
		wanted, anyPort = DefaultAPIPort, true
	}
	if r, ok := u.records()["forward"]; ok && r.alive() {
		if wanted == s.APIPort && r.current(u.forwardProcess(*s, nil)) {
			return nil, nil
		}
		if err := stop(r, time.Second); err != nil { // it holds the port
			return nil, err
		}
	}
	l, err := preflight.Listen(wanted, anyPort)
	if err != nil {
		return nil, err
	}
	defer l.Close() // the descriptor below is a duplicate
	s.APIPort = l.Addr().(*net.TCPAddr).Port
	return l.File()
}

// mountBPF mounts the BPF file system where an init system has not done it.
func (u *upRun) mountBPF() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(bpfRoot, &fs); err == nil && fs.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", bpfRoot, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700"); err != nil {
		return fmt.Errorf("mount the BPF file system at %s: %w", bpfRoot, err)
	}
	// Noted for all clusters: the one that mounts it need not be the last to go.
	if err := os.MkdirAll(runRoot, 0o755); err != nil {
		return err
	}
	return os.WriteFile(mountedBPF(), nil, 0o600)
}

// foundation makes what processes need before they start: namespaces, cgroups and credentials.
func (u *upRun) foundation() error {
	var g errgroup.Group
	g.Go(u.network)
	g.Go(u.credentials)
	if err := g.Wait(); err != nil {
		return err
	}
	return nil
}

func (u *upRun) network() error {
	if err := u.ensureFabric(); err != nil {
		return err
	}
	for i := 1; i <= u.state.Nodes; i++ {
		if err := u.ensureNode(u.Node(i)); err != nil {
			return err
		}
	}
	return nil
}

func (u *upRun) credentials() error {
	for i := 1; i <= u.state.Nodes; i++ {
		n := u.Node(i)
		for _, dir := range []string{n.DataDir(), n.RunDir()} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		if err := u.cfg.Issue(filepath.Join(u.ServerDir(), "pki"), n, u.serverURL()); err != nil {
			return fmt.Errorf("credentials of node %s: %w", n.Name(), err)
		}
	}
	return nil
}

// serverURL is the API as nodes reach it.
func (u *upRun) serverURL() string {
	return "https://" + net.JoinHostPort(u.Node(1).Addrs()[0].String(), strconv.Itoa(securePort))
}

func (u *upRun) startProcesses(listener *os.File) error {
	list, err := u.processes(listener)
	if err != nil {
		return err
	}
	for _, p := range list {
		if _, err := u.ensure(u.cgroups, p); err != nil {
			return err
		}
	}
	return nil
}

// processes lists the processes of the cluster in the order of their start.
func (u *upRun) processes(listener *os.File) ([]process, error) {
	binary, err := exec.LookPath("containerd")
	if err != nil {
		return nil, err
	}
	containerd, err := u.containerdProcess(binary)
	if err != nil {
		return nil, err
	}
	list := []process{u.serverProcess(), containerd, u.forwardProcess(u.state, listener), u.pullerProcess()}
	for i := 1; i <= u.state.Nodes; i++ {
		list = append(list, u.agentProcess(u.Node(i)))
	}
	return list, nil
}

func (u *upRun) serverProcess() process {
	first := u.Node(1)
	args := []string{
		"server",
		"--data-dir=" + u.ServerDir(),
		"--advertise-address=" + first.Addrs()[0].String(),
		"--secure-port=" + strconv.Itoa(securePort),
		"--kubeconfig-out=" + u.Kubeconfig(),
		"--kubeconfig-server=https://" + u.state.apiAddress(),
		"--extra-sans=localhost,127.0.0.1,::1",
	}
	if u.cfg.UnsafeNoFsync {
		args = append(args, "--unsafe-no-fsync")
	}
	return process{name: "server", path: u.cfg.Executable, args: args, netns: first.Netns(), cgroup: first.CgroupPath() + "/server"}
}

// forwardProcess carries connections from the host's loopback into the first node: the listener was made in the
// host's namespace, the process runs and dials in the node's.
func (u *upRun) forwardProcess(s State, listener *os.File) process {
	p := process{
		name:   "forward",
		path:   u.cfg.Executable,
		args:   []string{"forward", "--to=" + net.JoinHostPort(u.Node(1).Addrs()[0].String(), strconv.Itoa(securePort)), "--from=" + s.apiAddress()},
		netns:  u.Node(1).Netns(),
		cgroup: u.CgroupPath() + "/host",
	}
	if listener != nil {
		p.files = []*os.File{listener}
	}
	return p
}

func (u *upRun) pullerProcess() process {
	return process{
		name:   "puller",
		path:   u.cfg.Executable,
		args:   []string{"puller", "--containerd-socket=" + u.ContainerdSocket(), "--listen=" + u.PullerSocket()},
		cgroup: u.CgroupPath() + "/host",
	}
}

func (u *upRun) agentProcess(n Node) process {
	mount, _ := u.cgroups.unified() // preflight has seen it
	var addrs []string
	for _, a := range n.Addrs() {
		addrs = append(addrs, a.String())
	}
	return process{
		name: n.Name(),
		path: u.cfg.Executable,
		args: []string{
			"agent",
			"--node-name=" + n.Name(),
			"--node-ips=" + strings.Join(addrs, ","),
			"--credentials=" + n.CredentialsDir(),
			"--containerd-socket=" + u.ContainerdSocket(),
			"--containerd-namespace=" + n.Netns(),
			"--data-dir=" + n.DataDir(),
			"--run-dir=" + n.RunDir(),
			"--pin-dir=" + n.PinDir(),
			"--cgroup=" + n.CgroupPath(),
			"--socket-cgroup=" + filepath.Join(mount, n.CgroupPath()),
			"--puller-socket=" + u.PullerSocket(),
			"--uplink=" + Uplink,
		},
		netns:  n.Netns(),
		cgroup: n.CgroupPath() + "/agent",
	}
}

// lock keeps two runs for one cluster apart. The lock is on the run folder itself, so it leaves nothing behind.
func (c Cluster) lock(ctx context.Context) (unlock func(), err error) {
	for {
		if err := os.MkdirAll(c.RunDir(), 0o755); err != nil {
			return nil, err
		}
		dir, err := os.Open(c.RunDir())
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := flock(ctx, dir); err != nil {
			dir.Close()
			return nil, fmt.Errorf("another skep is working on cluster %q: %w", c.Name, err)
		}
		if sameAsPath(dir) {
			return func() { dir.Close() }, nil
		}
		dir.Close() // the holder removed the folder; start over with the new one
	}
}

func flock(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func sameAsPath(f *os.File) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(f.Name())
	return err == nil && os.SameFile(open, named)
}
