package bolt

// pieces is memory that serves for one generation after the other.
type pieces[T any] struct {
	all  [][]T
	used int // of those
}

// next returns a piece for at least so many things, which are not zero where it has served
// before. Where none is left it makes one for many.
func (p *pieces[T]) next(least, many int) []T {
	for p.used < len(p.all) {
		p.used++
		if piece := p.all[p.used-1]; len(piece) >= least {
			return piece
		}
	}
	piece := make([]T, max(least, many))
	p.all = append(p.all, piece)
	p.used++
	return piece
}

// again returns the pieces for somebody else: those that have been used, and no more than
// so many things in all.
func (p *pieces[T]) again(most int) pieces[T] {
	n := 0
	for n < p.used && most >= len(p.all[n]) {
		most -= len(p.all[n])
		n++
	}
	clear(p.all[n:])
	return pieces[T]{all: p.all[:n]}
}
