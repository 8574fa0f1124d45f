package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// isTerminal reports whether a person sits at the other end of stdin or stdout.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
