package plan

import "time"

// blocks gives every block its next state; those that are to go are left out.
func (p *planner) blocks() []Block {
	want := make([]Block, 0, len(p.in.Blocks)+16)
	for _, h := range p.holdings {
		for _, c := range h.claims {
			if next, ok := p.next(h, c); ok {
				next.Observed, next.Pending = 0, false
				want = append(want, next)
			}
		}
	}
	sortBlocks(want)
	return want
}

// next is the state that a block goes to, false when it goes away.
func (p *planner) next(h *holding, c *claim) (Block, bool) {
	b := c.Block
	switch {
	case c.Pending:
		return b, true
	case !c.exists:
		return b, h.node != nil
	case c.loser:
		return b, false
	case c.kept:
		if b.State == Claimed && c.waits {
			return b, true
		}
		b.State, b.Left = Bound, 0
		return b, true
	case c.inSpec:
		return b, true // the MeshNode outlives its Node for a moment, or is struck out first
	case h.node != nil && b.State == Claimed:
		return b, false // the node has another
	}
	return p.cool(b)
}

// cool counts the cooldown of a block. What has run off is written down every quarter, so that a
// restart costs a quarter at most and never shortens it.
func (p *planner) cool(b Block) (Block, bool) {
	if b.State != Cooling {
		b.State, b.Left = Cooling, p.in.Cooldown
		return b, true
	}
	if b.Observed >= b.Left {
		return b, false
	}
	step := min(max(p.in.Cooldown/4, time.Second), b.Left)
	if b.Observed >= step {
		b.Left -= b.Observed
		return b, true
	}
	p.askAgain(step - b.Observed)
	return b, true
}
