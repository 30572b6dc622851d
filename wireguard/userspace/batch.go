package userspace

import (
	"os"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// enough is how many packets end the gathering: as many as UDP segmentation offload takes in one go
// (UDP_MAX_SEGMENTS, 64 until Linux 6.9).
const enough = 64

// largest is the longest packet that a TUN link can hand over.
const largest = 1<<16 - 1

// batchedTUN reads all packets that are waiting, where wireguard-go reads one that the kernel has not
// joined with others, as it does with TCP alone. What is read together goes through wireguard-go
// together: one hand-over from goroutine to goroutine instead of one for each packet, one system call
// to send many datagrams as one large one, which the far side receives as one, writes to its TUN link
// as one, and forwards to its Pod as one.
type batchedTUN struct {
	tun.Device
	// waiting tells whether a packet can be read without waiting for it.
	waiting func() bool

	// spare takes what is read after the first packets, since it is known only afterwards how many
	// they are: one large segment becomes up to as many as spare has room for.
	spare [][]byte
	sizes []int
	first int // of those in spare that have not been handed over
	held  int // how many these are
}

// batched wraps a device whose packets come from the link. Only one goroutine may read.
func batched(device tun.Device, link *os.File) (*batchedTUN, error) {
	raw, err := link.SyscallConn()
	if err != nil {
		return nil, err
	}
	found := false
	look := func(fd uintptr) {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds[:], 0)
		found = err == nil && n == 1 && fds[0].Revents == unix.POLLIN
	}
	return newBatched(device, func() bool { return raw.Control(look) == nil && found }), nil
}

func newBatched(device tun.Device, waiting func() bool) *batchedTUN {
	b := &batchedTUN{Device: device, waiting: waiting}
	b.spare, b.sizes = make([][]byte, device.BatchSize()), make([]int, device.BatchSize())
	// Pages that no packet reaches are never made.
	all := make([]byte, len(b.spare)*largest)
	for i := range b.spare {
		b.spare[i] = all[i*largest : (i+1)*largest]
	}
	return b
}

// Read implements tun.Device.
func (b *batchedTUN) Read(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	if b.held == 0 {
		n, err = b.Device.Read(bufs, sizes, offset)
	}
	n += b.handOver(bufs[n:], sizes[n:], offset)
	for err == nil && b.held == 0 && n < min(enough, len(bufs)) && b.waiting() {
		b.first = 0
		b.held, err = b.Device.Read(b.spare, b.sizes, 0)
		n += b.handOver(bufs[n:], sizes[n:], offset)
	}
	return n, err
}

// handOver copies what is held and has room; the rest comes first in the next Read.
func (b *batchedTUN) handOver(bufs [][]byte, sizes []int, offset int) int {
	n := min(b.held, len(bufs))
	for i := range n {
		from := b.first + i
		sizes[i] = copy(bufs[i][offset:], b.spare[from][:b.sizes[from]])
	}
	b.first, b.held = b.first+n, b.held-n
	return n
}
