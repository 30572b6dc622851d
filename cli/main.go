// Command weft looks at a Weftnet mesh, says why a pair of nodes cannot talk, checks an
// installation, and removes what Weftnet left on a node. Named kubectl-weft and put on the PATH
// it is also `kubectl weft`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/weftnet/weftnet/cli/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := command.New(calledAs(os.Args[0]))
	if err := root.ExecuteContext(ctx); err != nil {
		if !errors.Is(err, command.ErrFound) { // what was found is already on the screen
			fmt.Fprintln(os.Stderr, "weft:", err)
		}
		os.Exit(1)
	}
}

// calledAs is the name to show in help texts: kubectl runs a plugin as kubectl-weft.
func calledAs(arg0 string) string {
	if strings.HasPrefix(filepath.Base(arg0), "kubectl-") {
		return "kubectl weft"
	}
	return "weft"
}
