//! Several ports at one gate.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use impasto_ring::{FlowId, Gate, Part, Port, Transmit, listen};

use crate::rig::{Kernel, Rig, Tcps, at_gate, limits, on_each_kernel};

on_each_kernel!(
    connections_are_spread_evenly_over_sleeping_workers,
    the_limit_is_one_over_all_ports_and_a_flow_that_ends_anywhere_is_a_place,
    a_port_that_stops_takes_no_wake_up_from_the_one_that_accepts,
    a_connection_on_its_way_to_a_port_that_stops_is_closed,
);

/// So long nothing here takes; what does not come fails instead of hanging.
const LONG: Duration = Duration::from_secs(10);

/// Two ports, the first with the listener.
#[expect(clippy::type_complexity, reason = "a test's rig")]
fn two<I: Kernel>(flows_max: usize) -> ([Tcps<I>; 2], SocketAddr, Arc<Gate<I::Waker>>) {
    let gate = Arc::new(Gate::new(flows_max));
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut rigs =
        [Some(listener), None].map(|listener| at_gate(64, limits(64, 2), listener, &gate));
    rigs.iter_mut().for_each(Rig::provide);
    (rigs, address, gate)
}

fn until<I: Kernel>(rigs: &mut [Tcps<I>; 2], mut is_done: impl FnMut(&[Tcps<I>; 2]) -> bool) {
    let start = Instant::now();
    while !is_done(rigs) {
        assert!(start.elapsed() < LONG, "nothing more happens");
        rigs.iter_mut().for_each(Rig::turn);
    }
}

fn opened<I: Kernel>(rigs: &[Tcps<I>; 2]) -> [usize; 2] {
    [0, 1].map(|at| rigs[at].opened.len())
}

/// Sends back what comes, until it is told to stop and woken. Returns the number of flows that it
/// had.
fn echo<I: Kernel>(mut rig: Tcps<I>, stop: &AtomicBool) -> usize {
    let mut echoed = std::collections::BTreeMap::<FlowId, usize>::new();
    while !stop.load(Ordering::Acquire) {
        let start = Instant::now();
        rig.io.enter(Some(LONG));
        assert!(start.elapsed() < LONG, "nobody woke us");
        rig.look();
        rig.sent.clear();
        for (flow, seen) in &rig.seen {
            let done = echoed.entry(*flow).or_default();
            if *done < seen.bytes.len() {
                let bytes = seen.bytes[*done..].to_vec();
                let parts = vec![Part::Bytes { at: 0, len: bytes.len() as u32 }];
                *done = seen.bytes.len();
                let transmit = Transmit { bytes, parts };
                rig.port.transmit_quiet(&mut rig.io, &rig.frames, *flow, transmit);
            }
        }
    }
    rig.opened.len()
}

/// Without the wake-up a connection would wait at a port that sleeps; without the counts one worker
/// could get most of a few connections. Every worker here waits without end.
fn connections_are_spread_evenly_over_sleeping_workers<I: Kernel<Waker: Send + Sync>>() {
    const WORKERS: usize = 3;
    const EACH: usize = 10;
    let gate = Arc::new(Gate::new(1000));
    let stop = Arc::new(AtomicBool::new(false));
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut listener = Some(listener);
    let (ready, wakers) = mpsc::channel::<I::Waker>();
    let mut workers = Vec::new();
    for at in (0..WORKERS).rev() {
        // The last to join has the listener: the others are there.
        let listener = listener.take_if(|_| at == 0);
        let (gate, stop, ready) = (Arc::clone(&gate), Arc::clone(&stop), ready.clone());
        workers.push(thread::spawn(move || {
            let mut rig = at_gate::<I>(64, limits(64, 2), listener, &gate);
            rig.provide();
            ready.send(rig.io.waker().unwrap()).unwrap();
            echo(rig, &stop)
        }));
    }
    let wakers: Vec<_> = wakers.iter().take(WORKERS).collect();
    let mut conns: Vec<_> =
        (0..WORKERS * EACH).map(|_| TcpStream::connect(address).unwrap()).collect();
    for round in 0..20_u8 {
        for conn in &mut conns {
            conn.write_all(&[round; 100]).unwrap();
        }
        for conn in &mut conns {
            let mut reply = [0; 100];
            conn.read_exact(&mut reply).unwrap();
            assert_eq!(reply, [round; 100]);
        }
    }
    stop.store(true, Ordering::Release);
    let mut io = I::with_entries(8);
    wakers.iter().for_each(|waker| io.wake(waker));
    io.enter(Some(Duration::ZERO));
    for worker in workers {
        assert_eq!(worker.join().unwrap(), EACH);
    }
    assert_eq!(gate.flows(), 0, "ports that are gone have no flows");
}

/// Without one count over all ports the limit would be as many times higher; without the wake-up
/// nobody could connect again once another port has closed a flow.
fn the_limit_is_one_over_all_ports_and_a_flow_that_ends_anywhere_is_a_place<I: Kernel>() {
    let (mut rigs, address, gate) = two::<I>(4);
    let _conns: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
    until(&mut rigs, |rigs| opened(rigs) == [2, 2]);
    for closed in 0..4 {
        for _ in 0..3 {
            rigs.iter_mut().for_each(Rig::turn);
        }
        assert_eq!(opened(&rigs).iter().sum::<usize>(), 4 + closed);
        assert_eq!(gate.flows(), 4);
        let [first, second] = &mut rigs;
        let flow = second.opened[closed];
        second.port.close(&mut second.io, flow);
        while second.port.flows() == 2 {
            second.turn();
        }
        second.io.enter(Some(Duration::ZERO));
        let start = Instant::now();
        first.io.enter(Some(LONG));
        assert!(start.elapsed() < LONG, "nobody woke the port that accepts");
        first.look();
        until(&mut rigs, |rigs| opened(rigs) == [2, 3 + closed]);
    }
}

/// Without care for who waits, a port that stops would use up the wake-up that the port which
/// accepts waits for.
fn a_port_that_stops_takes_no_wake_up_from_the_one_that_accepts<I: Kernel>() {
    let (mut rigs, address, _gate) = two::<I>(2);
    let _conns: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    until(&mut rigs, |rigs| opened(rigs) == [1, 1]);
    rigs.iter_mut().for_each(Rig::turn);
    let [first, second] = &mut rigs;
    second.port.stop_accepting(&mut second.io);
    let flow = second.opened[0];
    second.port.close(&mut second.io, flow);
    while second.port.flows() > 0 {
        second.turn();
    }
    second.io.enter(Some(Duration::ZERO));
    let start = Instant::now();
    first.io.enter(Some(LONG));
    assert!(start.elapsed() < LONG, "nobody woke the port that accepts");
    first.look();
    until(&mut rigs, |rigs| opened(rigs) == [2, 1]);
}

/// Without the end of the inbox, a connection on its way to a port that stops would hang, and its
/// place would be lost.
fn a_connection_on_its_way_to_a_port_that_stops_is_closed<I: Kernel>() {
    let (mut rigs, address, gate) = two::<I>(100);
    let mut conns: Vec<_> = (0..4).map(|_| TcpStream::connect(address).unwrap()).collect();
    let [first, second] = &mut rigs;
    first.until(|first| first.opened.len() == 2 && gate.flows() == 4);
    assert!(second.opened.is_empty());
    second.port.stop_accepting(&mut second.io);
    assert_eq!(gate.flows(), 2);
    let closed = conns.iter_mut().filter(|conn| {
        conn.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        (&**conn).read(&mut [0]).is_ok_and(|count| count == 0)
    });
    assert_eq!(closed.count(), 2);
    // Those that come now go to who still takes them.
    let _more = [(); 2].map(|()| TcpStream::connect(address).unwrap());
    first.until(|first| first.opened.len() == 4);
    first.port.stop_accepting(&mut first.io);
    assert_eq!(gate.flows(), 4);
    drop(rigs);
    assert_eq!(gate.flows(), 0);
}
