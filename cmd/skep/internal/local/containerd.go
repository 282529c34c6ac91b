// SPDX-License-Identifier: Apache-2.0

package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"skep.dev/skep/nodeagent/runtime"
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

// shimSockets lists the sockets of the cluster's shims, of those that run no more too: those that its task bundles name and, because
// a containerd that sees its shim killed removes the bundle and forgets the socket, those that the pods known to the nodes would have.
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
	nodes, _ := filepath.Glob(filepath.Join(c.DataDir(), "nodes", "*")) // a cluster's name has no pattern characters
	for _, dir := range nodes {
		for _, uid := range podUIDs(dir) {
			sockets = append(sockets, runtime.ShimSocket(c.ContainerdSocket(), "skep-"+c.Name+"-"+filepath.Base(dir), uid))
		}
	}
	return sockets
}

// podUIDs finds the pods that a node knew in everything that an agent keeps by pod.
func podUIDs(nodeData string) []string {
	var uids []string
	for _, pattern := range []string{"pods/*", "checkpoint/*.json", "log/pods/*_*_*"} {
		found, _ := filepath.Glob(filepath.Join(nodeData, pattern))
		for _, f := range found {
			uid := strings.TrimSuffix(filepath.Base(f), ".json")
			uids = append(uids, uid[strings.LastIndexByte(uid, '_')+1:])
		}
	}
	slices.Sort(uids)
	return slices.Compact(uids)
}

// removeContainerdLeftovers removes what the cluster's containerd and its shims left outside the cluster's folders.
func (c Cluster) removeContainerdLeftovers(sockets []string) error {
	var errs []error
	for _, socket := range sockets {
		if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	states, _ := filepath.Glob(filepath.Join(runtime.ContainerdRun, "runc", "*")) // the pattern is constant
	for _, dir := range states {
		if c.ownsNetns(filepath.Base(dir)) { // a node's containerd namespace has the name of its network namespace
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	for _, dir := range []string{"s", "runc", "."} {
		_ = os.Remove(filepath.Join(runtime.ContainerdRun, dir)) // refused while another containerd uses it
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
