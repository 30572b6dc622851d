//go:build linux

// Init is the first and only process of the machine that test/kernel boots: it mounts what the
// tests need, loads the modules, runs the test programs, prints a verdict and turns the machine off.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/kernel/verdict"
)

func main() {
	words := verdict.Pass
	if err := run(); err != nil {
		words = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	fmt.Println(verdict.Prefix + words)
	unix.Sync()
	_ = unix.IoctlSetInt(1, unix.TCSBRK, 1) // wait until the serial console has printed it
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	if err := mount(); err != nil {
		return err
	}
	if err := loadModules("/modules/order"); err != nil {
		return err
	}
	programs, err := filepath.Glob("/tests/*/test")
	if err != nil || len(programs) == 0 {
		return fmt.Errorf("no test programs: %w", err)
	}
	var faults []error
	for _, p := range programs {
		name := filepath.Base(filepath.Dir(p))
		fmt.Println("### " + name)
		if err := runTests(p); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(faults...)
}

func mount() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	return nil
}

func loadModules(list string) error {
	data, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(strings.NewReader(string(data)))
	for lines.Scan() {
		if err := loadModule(lines.Text()); err != nil {
			return fmt.Errorf("load %s: %w", lines.Text(), err)
		}
	}
	return lines.Err()
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func runTests(path string) error {
	pattern, err := os.ReadFile(filepath.Join(filepath.Dir(path), "run"))
	if err != nil {
		return err
	}
	cmd := exec.Command(path, "-test.v", "-test.timeout=10m", "-test.run="+string(pattern))
	cmd.Dir = filepath.Dir(path)
	cmd.Env = []string{
		"PATH=/bin", "TMPDIR=/tmp", "HOME=/tmp",
		"WEFTNET_BACKEND=kernel", "WEFTNET_WIREGUARD_BINARY=/bin/wireguard",
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	return cmd.Run()
}
