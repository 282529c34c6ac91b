// SPDX-License-Identifier: Apache-2.0

package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const stateFile = "cluster.json"

// State is what the cluster was asked to be; it is what makes a repair possible.
type State struct {
	// Nodes is the number of nodes, at least 1.
	Nodes int `json:"nodes"`
	// APIPort is the port of 127.0.0.1 on which the host reaches the API.
	APIPort int `json:"apiPort"`
}

// apiAddress is the API as the host reaches it.
func (s State) apiAddress() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.APIPort))
}

// ReadState returns the recorded state; an unknown cluster gives os.ErrNotExist.
func (c Cluster) ReadState() (State, error) {
	var s State
	raw, err := os.ReadFile(filepath.Join(c.DataDir(), stateFile))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("read %s: %w (\"skep down --name %s\" removes the cluster)", filepath.Join(c.DataDir(), stateFile), err, c.Name)
	}
	return s, nil
}

// Nodes lists the nodes of the recorded state.
func (c Cluster) Nodes() ([]Node, error) {
	s, err := c.ReadState()
	if errors.Is(err, os.ErrNotExist) {
		return nil, c.missing(Clusters())
	}
	if err != nil {
		return nil, err
	}
	nodes := make([]Node, s.Nodes)
	for i := range nodes {
		nodes[i] = c.Node(i + 1)
	}
	return nodes, nil
}

// missing says that the cluster is not there, and which ones are.
func (c Cluster) missing(others []Cluster) error {
	up := "skep up"
	if c.Name != DefaultName {
		up += " --name " + c.Name
	}
	if len(others) == 0 {
		return fmt.Errorf("there is no local cluster %q: start one with %q", c.Name, up)
	}
	var names []string
	for _, o := range others {
		names = append(names, o.Name)
	}
	return fmt.Errorf("there is no local cluster %q: start one with %q, or choose with --name among %s", c.Name, up, strings.Join(names, ", "))
}

func (c Cluster) writeState(s State) error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(c.DataDir(), stateFile), append(raw, '\n'), 0o600)
}

// writeFile replaces a file as a whole, so that a crash leaves the old or the new content.
func writeFile(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, content, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
