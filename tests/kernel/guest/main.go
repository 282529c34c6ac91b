// SPDX-License-Identifier: Apache-2.0

// Guest runs inside the virtual machine: it loads every program of the datapath on the kernel that it finds.
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		fmt.Println("guest:", err)
		os.Exit(1)
	}
	fmt.Println("guest: Linux", unix.ByteSliceToString(name.Release[:]))
}
