package build

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/weftnet/weftnet/test/testbed/progress"
)

const (
	tailLines      = 40
	downloadTries  = 3
	killAfter      = 5 * time.Second
	maxOutputBytes = 1 << 20 // of one line
)

// goCommand prepares a go command in a tool module. GOFLAGS and GOWORK of the user would change the result behind the key's back.
func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that cancelling ends the compilers too
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killAfter
	return cmd
}

// pinnedVersion reads a module's version from the go.mod in dir.
func pinnedVersion(ctx context.Context, dir, modulePath string) (string, error) {
	out, err := goCommand(ctx, dir, "list", "-mod=readonly", "-m", "-f", "{{.Version}}", modulePath).Output()
	if err != nil {
		return "", fmt.Errorf("read the pinned version of %s: %w", modulePath, explain(err))
	}
	return strings.TrimSpace(string(out)), nil
}

func explain(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w\n%s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return err
}

// runGo runs a go command and shows its progress. A failure to download, which passes, is tried again.
func runGo(ctx context.Context, dir string, args []string, task *progress.Task) error {
	for try := 1; ; try++ {
		out := &output{task: task}
		err := runOnce(goCommand(ctx, dir, args...), out)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("build in %s: %w", dir, ctx.Err())
		}
		if try == downloadTries || !transient(out.tail) {
			return fmt.Errorf("build in %s: %w; the end of its output:\n%s", dir, err, strings.Join(out.tail, "\n"))
		}
		task.Note("download failed, trying again")
	}
}

func runOnce(cmd *exec.Cmd, out *output) error {
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	read := make(chan error, 1)
	go func() { read <- out.consume(reader) }()
	err := cmd.Run()
	writer.Close()
	if readErr := <-read; err == nil {
		err = readErr
	}
	return err
}

// output follows what the go command prints with -v: a line per package that it compiles, downloads, and the compiler's complaints.
type output struct {
	task     *progress.Task
	packages int
	tail     []string // the last complaints
}

func (o *output) consume(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxOutputBytes)
	for lines.Scan() {
		o.line(lines.Text())
	}
	if err := lines.Err(); err != nil {
		_, _ = io.Copy(io.Discard, r) // or the command would block on its next line
		return fmt.Errorf("read the output of go: %w", err)
	}
	return nil
}

var packageLine = regexp.MustCompile(`^[^\s:#]+$`)

func (o *output) line(text string) {
	switch {
	case packageLine.MatchString(text):
		o.packages++
		o.task.Note("%d packages", o.packages)
	case strings.HasPrefix(text, "go: downloading "):
		o.task.Note("downloading %s", strings.TrimPrefix(text, "go: downloading "))
	default:
		o.tail = append(o.tail, text)
		if len(o.tail) > tailLines {
			o.tail = o.tail[1:]
		}
	}
}

var transientSigns = regexp.MustCompile(`(?i)dial tcp|i/o timeout|TLS handshake timeout|connection reset|unexpected EOF|50[234] |stream error`)

func transient(tail []string) bool { return transientSigns.MatchString(strings.Join(tail, "\n")) }

// PackageDir returns the source folder of a target's package in the module cache, for what lies beside its code.
func PackageDir(ctx context.Context, root, target string) (string, error) {
	targets, err := Select([]string{target})
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "tools", targets[0].Module)
	out, err := goCommand(ctx, dir, "list", "-mod=readonly", "-f", "{{.Dir}}", targets[0].Package).Output()
	if err != nil {
		return "", fmt.Errorf("find the source of %s: %w", target, explain(err))
	}
	return strings.TrimSpace(string(out)), nil
}
