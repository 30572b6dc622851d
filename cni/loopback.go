//go:build linux

package main

import (
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"github.com/weftnet/weftnet/cni/wire"
)

// loopbackType is the plugin type under which this program brings up a Pod's loopback. Some runtimes
// ask a plugin of this type for every Pod and expect the host to have it; the agent links it to
// this program on hosts that have none. (The type in the configuration is always the name that the
// runtime started the program by.)
const loopbackType = "loopback"

const codeKernel = 100

// loopback answers a call made to the plugin of that name. The kernel gives 127.0.0.1 and ::1 to the
// link when it comes up, and the link goes with its namespace, so only ADD and CHECK have work to do.
func loopback(command string, config []byte) ([]byte, *failure) {
	switch command {
	case "VERSION":
		return versions(config), nil
	case "DEL", "GC", "STATUS":
		return nil, nil
	case "ADD", "CHECK":
	default:
		return nil, &failure{codeBadEnvironment, "unknown CNI_COMMAND: " + command, ""}
	}
	netns, ifname := env("CNI_NETNS"), env("CNI_IFNAME")
	if netns == "" || ifname == "" {
		return nil, &failure{codeBadEnvironment, "CNI_NETNS and CNI_IFNAME are needed", ""}
	}
	if err := enter(netns); err != nil {
		return nil, &failure{codeBadNetns, "enter the network namespace " + netns, err.Error()}
	}
	up, err := linkUp("lo", command == "ADD")
	if err != nil {
		return nil, &failure{codeKernel, "bring up the loopback in " + netns, err.Error()}
	}
	if !up {
		return nil, &failure{codeKernel, "the loopback in " + netns + " is down", ""}
	}
	if command == "CHECK" {
		return nil, nil
	}
	return loopbackResult(config, netns), nil
}

// enter moves this thread, and with it the rest of this call, into a network namespace.
func enter(netns string) error {
	fd, err := openRetry(netns)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(fd) }()
	runtime.LockOSThread()
	if _, _, errno := syscall.RawSyscall(sysSetns, uintptr(fd), syscall.CLONE_NEWNET, 0); errno != 0 {
		return errno
	}
	return nil
}

// ifreq is the kernel's struct ifreq as SIOCGIFFLAGS and SIOCSIFFLAGS use it.
type ifreq struct {
	name  [syscall.IFNAMSIZ]byte
	flags uint16
	_     [22]byte
}

// linkUp tells whether a link is up, after bringing it up if asked to.
func linkUp(name string, set bool) (bool, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer func() { _ = syscall.Close(fd) }()
	var req ifreq
	copy(req.name[:syscall.IFNAMSIZ-1], name)
	if err := ioctl(fd, syscall.SIOCGIFFLAGS, &req); err != nil {
		return false, err
	}
	if set && req.flags&syscall.IFF_UP == 0 {
		req.flags |= syscall.IFF_UP
		if err := ioctl(fd, syscall.SIOCSIFFLAGS, &req); err != nil {
			return false, err
		}
	}
	return req.flags&syscall.IFF_UP != 0, nil
}

func ioctl(fd int, call uintptr, req *ifreq) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), call, uintptr(unsafe.Pointer(req))); errno != 0 {
		return errno
	}
	return nil
}

// loopbackResult is the answer to ADD; before version 1.0.0 an address also told its family.
func loopbackResult(config []byte, netns string) []byte {
	version := wire.Peek(config, "cniVersion")["cniVersion"]
	if version == "" {
		version = "0.3.1"
	}
	v4, v6 := "", ""
	if strings.HasPrefix(version, "0.") {
		v4, v6 = `"version":"4",`, `"version":"6",`
	}
	b := wire.AppendString([]byte(`{"cniVersion":`), version)
	b = append(b, `,"interfaces":[{"name":"lo","mac":"00:00:00:00:00:00","sandbox":`...)
	b = wire.AppendString(b, netns)
	return append(b, `}],"ips":[{`+v4+`"interface":0,"address":"127.0.0.1/8"},{`+v6+`"interface":0,"address":"::1/128"}],"dns":{}}`+"\n"...)
}
