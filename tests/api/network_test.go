// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// networkVariable says that the test binary runs in a network namespace of its own.
const networkVariable = "SKEP_TEST_API_NETWORK"

// nodeAddress is on loopback of that namespace: EndpointSlices take no 127.0.0.1.
const nodeAddress = "192.0.2.1"

// inOwnNetwork runs the tests again in a new network namespace, where nothing but loopback exists.
func inOwnNetwork() int {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), networkVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "in a network namespace of its own:", err)
		return 1
	}
	return 0
}

// setUpNetwork gives the namespace its addresses.
func setUpNetwork() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	return netlink.AddrReplace(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(nodeAddress), Mask: net.CIDRMask(32, 32)}})
}

// ownNetwork skips a test that needs it.
func ownNetwork(t *testing.T) {
	t.Helper()
	if os.Getenv(networkVariable) == "" {
		t.Skip("needs root, to make a network namespace")
	}
}
