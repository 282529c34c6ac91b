// SPDX-License-Identifier: Apache-2.0

package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// containerdConfig is the whole configuration of a cluster's containerd. Version 2 is read by every release since
// 1.3. The plugins that are turned off listen, poll devices or make folders (/opt/containerd) that nobody uses.
const containerdConfig = `version = 2
root = %q
state = %q
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.restart",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = %q

[ttrpc]
  address = %q

[debug]
  address = ""
  level = "warn"
`

func (c Cluster) containerdState() string { return filepath.Join(c.RunDir(), "containerd", "state") }

// containerdProcess writes the configuration and describes the process.
func (c Cluster) containerdProcess(binary string) (process, error) {
	root := filepath.Join(c.DataDir(), "containerd", "root")
	socket := c.ContainerdSocket()
	config := filepath.Join(c.DataDir(), "containerd", "config.toml")
	if err := os.MkdirAll(filepath.Dir(socket), 0o711); err != nil {
		return process{}, err
	}
	content := fmt.Sprintf(containerdConfig, root, c.containerdState(), socket, socket+".ttrpc")
	if err := writeFile(config, []byte(content), 0o644); err != nil {
		return process{}, err
	}
	return process{
		name: "containerd",
		// Nothing that it starts can reach the uplink, not even a container whose namespace was forgotten. Images come by the puller.
		netns:  c.fabricNetns(),
		path:   binary,
		args:   []string{"--config", config},
		cgroup: c.CgroupPath() + "/containerd",
	}, nil
}

// containerdRun is where every containerd of the machine keeps what it does not keep in its own state folder:
// sockets of shims and runc's state.
const containerdRun = "/run/containerd"

// shimSockets lists the sockets of the cluster's shims, as its task bundles name them.
func (c Cluster) shimSockets() []string {
	var sockets []string
	for _, name := range []string{"address", "bootstrap.json"} { // containerd 1 and 2
		files, _ := filepath.Glob(filepath.Join(c.containerdState(), "io.containerd.runtime.v2.task", "*", "*", name))
		for _, f := range files {
			raw, err := os.ReadFile(f)
			if err != nil {
				continue // gone meanwhile
			}
			if path, ok := strings.CutPrefix(shimAddress(raw), "unix://"); ok {
				sockets = append(sockets, path)
			}
		}
	}
	return sockets
}

// deadSockets lists the shim sockets of this machine behind which there is nobody. A containerd that sees its shim killed
// removes the bundle and forgets the socket, so nothing tells whose it was; but it can never be used again. A socket is
// dead when it refuses twice: between its creation and its first listen it refuses, too, for some microseconds.
func deadSockets() []string {
	all, _ := filepath.Glob(filepath.Join(containerdRun, "s", "*")) // the pattern is constant
	suspects := slices.DeleteFunc(all, func(path string) bool { return !refuses(path) })
	if len(suspects) == 0 {
		return nil
	}
	time.Sleep(100 * time.Millisecond)
	return slices.DeleteFunc(suspects, func(path string) bool { return !refuses(path) })
}

func refuses(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, unix.ECONNREFUSED)
}

// removeContainerdLeftovers removes what the cluster's containerd and its shims left outside the cluster's folders.
func (c Cluster) removeContainerdLeftovers(sockets []string) error {
	var errs []error
	for _, socket := range append(sockets, deadSockets()...) {
		if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	states, _ := filepath.Glob(filepath.Join(containerdRun, "runc", "*")) // the pattern is constant
	for _, dir := range states {
		if c.ownsNetns(filepath.Base(dir)) { // a node's containerd namespace has the name of its network namespace
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	for _, dir := range []string{"s", "runc", "."} {
		_ = os.Remove(filepath.Join(containerdRun, dir)) // refused while another containerd uses it
	}
	return errors.Join(errs...)
}

func shimAddress(raw []byte) string {
	var bootstrap struct {
		Address string `json:"address"`
	}
	if json.Unmarshal(raw, &bootstrap) == nil {
		return bootstrap.Address
	}
	return strings.TrimSpace(string(raw))
}
