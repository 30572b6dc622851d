//go:build linux

package main

import (
	"strconv"
	"strings"
	"syscall"

	"github.com/weftnet/weftnet/cni/wire"
)

// enqueue leaves a DEL for the agent: one file per attachment, so that a repeated DEL replaces the
// note of the first. The file appears complete or not at all. /run is gone after a reboot, and so is
// every Pod that a note could be about.
func enqueue(socket string, frame []byte, header wire.Header) error {
	dir := socket[:strings.LastIndexByte(socket, '/')+1]
	if err := mkdir(dir); err != nil {
		return err
	}
	dir += wire.QueueDir
	if err := mkdir(dir); err != nil {
		return err
	}
	name := dir + "/" + wire.QueueName(header.ContainerID, header.IfName)
	temp := dir + "/." + strconv.Itoa(syscall.Getpid())
	fd, err := syscall.Open(temp, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return wrap("open "+temp+": ", err)
	}
	for b := frame; len(b) > 0 && err == nil; {
		var n int
		if n, err = syscall.Write(fd, b); n > 0 {
			b = b[n:]
		}
	}
	if cerr := syscall.Close(fd); err == nil {
		err = cerr
	}
	if err == nil {
		err = syscall.Rename(temp, name)
	}
	if err != nil {
		_ = syscall.Unlink(temp)
		return wrap("write "+name+": ", err)
	}
	return nil
}

func mkdir(dir string) error {
	if err := syscall.Mkdir(dir, 0o700); err != nil && err != syscall.EEXIST {
		return wrap("make "+dir+": ", err)
	}
	return nil
}
