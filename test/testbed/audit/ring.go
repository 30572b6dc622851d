package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// snapLen holds an ICMPv6 error, the headers that it quotes, and extension
	// headers between; a data packet's body is not copied.
	snapLen = 384
	// The ring holds some 300,000 frames: seconds of the underlay's full rate.
	blockSize  = 1 << 20
	blockCount = 128
	frameSize  = 512
	// retire hands over a block that is not full after this many milliseconds.
	retire = 20
)

// ring is a packet socket whose frames the kernel writes into shared memory
// (TPACKET_V3), so that a busy underlay costs no system call per frame.
type ring struct {
	fd      int
	memory  []byte
	current int
}

// openRing starts to receive every frame that passes a link. On a bridge
// being promiscuous means to see what it forwards between its ports, too.
func openRing(link string) (*ring, error) {
	iface, err := net.InterfaceByName(link)
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", link, err)
	}
	// Protocol 0: nothing is received before all is set up.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	r := &ring{fd: fd}
	if err := r.setUp(iface.Index); err != nil {
		return nil, errors.Join(fmt.Errorf("set up the packet socket on %s: %w", link, err), r.close())
	}
	return r, nil
}

func (r *ring) setUp(index int) error {
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return err
	}
	if err := limitCopy(r.fd); err != nil {
		return err
	}
	request := unix.TpacketReq3{
		Block_size: blockSize, Block_nr: blockCount, Frame_size: frameSize,
		Frame_nr: blockSize / frameSize * blockCount, Retire_blk_tov: retire,
	}
	if err := unix.SetsockoptTpacketReq3(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &request); err != nil {
		return err
	}
	memory, err := unix.Mmap(r.fd, 0, blockSize*blockCount, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	r.memory = memory
	promiscuous := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(r.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &promiscuous); err != nil {
		return err
	}
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	return unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index})
}

// limitCopy makes the kernel copy only the beginning of a frame: a filter that
// accepts everything, cut to that length.
func limitCopy(fd int) error {
	program, err := bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: snapLen}})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

func (r *ring) close() error {
	var errs []error
	if r.memory != nil {
		errs = append(errs, unix.Munmap(r.memory))
	}
	return errors.Join(append(errs, unix.Close(r.fd))...)
}

// dropped is the number of frames lost since the last call.
func (r *ring) dropped() (uint64, error) {
	stats, err := unix.GetsockoptTpacketStatsV3(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("read the packet socket's statistics: %w", err)
	}
	return uint64(stats.Drops), nil
}

// wait returns when there may be a block to read, or after the time.
func (r *ring) wait(most time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN | unix.POLLERR}}
	_, err := unix.Poll(fds, int(most.Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for frames: %w", err)
	}
	if fds[0].Revents&unix.POLLERR == 0 {
		return nil
	}
	failure, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && failure != 0 {
		err = unix.Errno(failure)
	}
	if err != nil {
		return fmt.Errorf("receive frames: %w", err)
	}
	return nil
}

// read hands over the frames of all full blocks.
func (r *ring) read(see func(at time.Time, data []byte, wire int)) {
	for range blockCount {
		block := r.memory[r.current*blockSize : (r.current+1)*blockSize]
		header := (*blockHeader)(unsafe.Pointer(&block[0]))
		if header.status.Load()&unix.TP_STATUS_USER == 0 {
			return
		}
		readBlock(block, header.first, header.count, see)
		header.status.Store(unix.TP_STATUS_KERNEL)
		r.current = (r.current + 1) % blockCount
	}
}

// blockHeader is the beginning of a block (struct tpacket_block_desc): version,
// offset of private data, and then what the ring needs. The kernel writes the
// status last, and we give a block back by writing it.
type blockHeader struct {
	_      [2]uint32
	status atomic.Uint32
	count  uint32
	first  uint32
}

// readBlock walks the frames of a block, each linked to the next by an offset.
func readBlock(block []byte, at, count uint32, see func(time.Time, []byte, int)) {
	for range count {
		if int(at)+int(unsafe.Sizeof(unix.Tpacket3Hdr{})) > len(block) {
			return
		}
		h := (*unix.Tpacket3Hdr)(unsafe.Pointer(&block[at]))
		begin := int(at) + int(h.Mac)
		end := begin + int(h.Snaplen)
		if end > len(block) {
			return
		}
		see(time.Unix(int64(h.Sec), int64(h.Nsec)), block[begin:end:end], int(h.Len))
		at += h.Next_offset
	}
}
