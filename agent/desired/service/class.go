package service

import (
	"fmt"
	"time"
)

// class is what the map of frontends says of one: a packet mark whose upper byte is Weftnet's, which
// lives from that look-up to the end of the chain and no longer.
type class uint32

// The layout of a packet mark. While a packet is between its translation and its exit, the upper byte
// alone says that its source shall be translated too.
const (
	markMask  uint32 = 0xff000000
	markOurs  uint32 = 0x87000000
	kindShift        = 20
	paramMask uint32 = 1<<kindShift - 1
)

// MarkMasquerade is the packet mark that says, from the translation of a flow's first packet to its
// exit, that its source shall be translated too; MarkMask are the bits of it.
const (
	MarkMasquerade = markOurs
	MarkMask       = markMask
)

// The kinds of classes, each with a parameter.
const (
	kindCluster     uint32 = iota + 1 // number of slots
	kindLocal                         // the same for externalTrafficPolicy Local; 0 means none here
	kindSticky                        // affinity in seconds
	kindLocalSticky                   // the same for externalTrafficPolicy Local
	kindRanges                        // only some sources may; what then is in another map
	kindRefuse
	kindDrop
	kindDraw // number of slots with affinity
)

func classOf(kind uint32, param int) class {
	return class(markOurs | kind<<kindShift | uint32(param)&paramMask)
}

func stickyClass(kind uint32, timeout time.Duration) class {
	return classOf(kind, int(timeout/time.Second))
}

// seconds names the chains of a timeout.
func seconds(timeout time.Duration) string { return fmt.Sprintf("%ds", int(timeout/time.Second)) }
