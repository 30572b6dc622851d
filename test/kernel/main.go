// Kernel runs the contract tests of agent/kernel on a kernel that has WireGuard: Debian's, in a
// virtual machine under qemu, since the machine that the other tests run on may have none. It
// exits with 0 only when every test program in the machine has passed.
//
// Under software emulation this says nothing about speed; it is about correctness alone.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/weftnet/weftnet/test/kernel/verdict"
)

// suites are the test programs that run in the machine, with their arguments.
var suites = []suite{
	{pkg: "agent/kernel/wg/contract"},
	{pkg: "agent/kernel/link"},
	{pkg: "agent/kernel/link/contract"},
	{pkg: "wireguard/userspace", run: "TrafficIn|TrafficWith|Stop|Roaming|Drift|Deleted|Request"}, // the others measure time
	{pkg: "agent/kernel/route", run: "Contract|Prints|Stray|Subscribe"},
	{pkg: "agent/kernel/sysctl"},
	{pkg: "agent/kernel/nft", run: "Contract|Drift|Changed|Foreign|Subscribe|Counters"},
}

// tools are programs of this machine that tests run to look from outside.
var tools = []string{"ip", "nft"}

// modules are loaded before the tests, after what they depend on.
var modules = []string{
	"wireguard", "tun", "veth", "bridge", "dummy", "nf_tables", "nf_conntrack", "nf_conntrack_netlink", "nf_nat",
	"nft_ct", "nft_nat", "nft_masq", "nft_redir", "nft_chain_nat", "nft_fib_inet", "nft_reject_inet", "nft_limit", "nft_log", "nft_numgen", "nft_objref", "nfnetlink_log",
}

func main() {
	timeout := flag.Duration("timeout", 15*time.Minute, "how long the machine may take")
	verbose := flag.Bool("v", false, "show everything that the machine prints")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, *timeout, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "test-kernel: FAIL:", err)
		os.Exit(1)
	}
	fmt.Println("test-kernel: PASS")
}

func run(ctx context.Context, timeout time.Duration, verbose bool) error {
	kernel, err := fetchKernel(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "weftnet-kernel-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	image := filepath.Join(dir, "initramfs")
	if err := buildImage(ctx, dir, image, kernel); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return boot(ctx, kernel.image, image, verbose)
}

// boot runs the machine and reads its verdict from the serial console.
func boot(ctx context.Context, kernel, initramfs string, verbose bool) error {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return fmt.Errorf("qemu is missing (on Debian: apt-get install qemu-system-x86): %w", err)
	}
	cmd := exec.CommandContext(ctx, qemu,
		"-accel", "tcg", "-cpu", "max", // works on every machine, which KVM inside a machine does not
		"-smp", "2", "-m", "1536", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-kernel", kernel, "-initrd", initramfs, "-append", "console=ttyS0 quiet panic=-1 rdinit=/init")
	cmd.Stderr = os.Stderr
	serial, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	fmt.Println("booting", filepath.Base(kernel))
	if err := cmd.Start(); err != nil {
		return err
	}
	faults := watch(serial, os.Stdout, verbose)
	if err := cmd.Wait(); err != nil && ctx.Err() != nil {
		return fmt.Errorf("the machine did not finish: %w", context.Cause(ctx))
	}
	return faults
}

// watch shows what the machine prints and looks for the verdict, without which nothing has passed.
func watch(serial io.Reader, out io.Writer, verbose bool) error {
	result := fmt.Errorf("the machine ended without a verdict")
	lines := bufio.NewScanner(serial)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		if words, ok := strings.CutPrefix(line, verdict.Prefix); ok {
			result = nil
			if words != verdict.Pass {
				result = fmt.Errorf("in the machine: %s", words)
			}
		}
		if verbose || interesting(line) {
			_, _ = fmt.Fprintln(out, line)
		}
	}
	return result
}

func interesting(line string) bool {
	for _, word := range []string{"=== RUN", "=== PAUSE", "=== CONT", "    --- PASS"} {
		if strings.Contains(line, word) {
			return false
		}
	}
	return true
}
