//go:build kernelvm

package main

import (
	"testing"
	"time"
)

// TestKernelWireGuard is the program as a test, for `make test-kernel`.
func TestKernelWireGuard(t *testing.T) {
	if err := run(t.Context(), 15*time.Minute, testing.Verbose()); err != nil {
		t.Fatal(err)
	}
}
