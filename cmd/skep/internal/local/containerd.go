// SPDX-License-Identifier: Apache-2.0

package local

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
		name:   "containerd",
		path:   binary,
		args:   []string{"--config", config},
		cgroup: c.CgroupPath() + "/containerd",
	}, nil
}

// shimSockets lists the sockets of the cluster's shims. containerd keeps them outside its state folder, so they
// have to be read from the task bundles before those are removed.
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

func shimAddress(raw []byte) string {
	var bootstrap struct {
		Address string `json:"address"`
	}
	if json.Unmarshal(raw, &bootstrap) == nil {
		return bootstrap.Address
	}
	return strings.TrimSpace(string(raw))
}
