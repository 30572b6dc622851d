// Command testbed runs a real Kubernetes cluster on one machine, for the
// demo, the end-to-end tests and the benchmarks.
package main

import (
	"os"

	"github.com/weftnet/weftnet/test/testbed/build"
	"github.com/weftnet/weftnet/test/testbed/cli"
	"github.com/weftnet/weftnet/test/testbed/debian"
	"github.com/weftnet/weftnet/test/testbed/image"
)

func main() {
	os.Exit(cli.Run(build.Command(), image.Command(), debian.Command()))
}
