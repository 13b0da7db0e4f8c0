//! Frames arrive at the other end of a veth pair byte for byte.

use std::io::{Error, ErrorKind};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mqlb::net::{PacketSocket, by_name, netlink};
use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::{Namespace, pair};

/// An EtherType for local experiments (IEEE 802), so that nothing else on the wire is mistaken for it.
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

fn frame(length: usize, tag: Option<u16>) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 1, 2, 2, 0, 0, 0, 1, 1];
    if let Some(id) = tag {
        frame.extend([0x81, 0x00]);
        frame.extend(id.to_be_bytes());
    }
    frame.extend(EXPERIMENT);
    frame.extend((frame.len()..length).map(|n| n as u8));
    frame
}

/// A socket that receives every frame that arrives in the namespace, and tells the tag that the
/// kernel took off.
fn listen(namespace: &Namespace) -> Socket {
    namespace.run(|| {
        let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let on: libc::c_int = 1;
        // SAFETY: the option value is a live c_int of the size given.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_AUXDATA,
                (&raw const on).cast(),
                4,
            )
        };
        assert_eq!(result, 0);
        socket
    })
}

/// The next frame of the experiment, with the VLAN identifier that it came with.
fn receive(socket: &Socket) -> Option<(Vec<u8>, Option<u16>)> {
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut buffer = [0u8; 4096];
    let mut control = [0u64; 16];
    while Instant::now() < deadline {
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        // SAFETY: msghdr is integers and pointers, for which zero is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: the message points to one part and a control buffer of the lengths given, all of
        // which outlive the call.
        let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
        let Ok(length) = usize::try_from(length) else {
            assert_eq!(Error::last_os_error().kind(), ErrorKind::WouldBlock);
            continue;
        };
        if buffer[12..14] != EXPERIMENT {
            continue;
        }
        // SAFETY: the kernel filled the control buffer and set its length; the socket asked for one
        // kind of message, which holds a tpacket_auxdata.
        let auxiliary = unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            assert!(!header.is_null() && (*header).cmsg_type == libc::PACKET_AUXDATA);
            libc::CMSG_DATA(header)
                .cast::<libc::tpacket_auxdata>()
                .read_unaligned()
        };
        let tagged = auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
        return Some((
            buffer[..length].to_vec(),
            tagged.then_some(auxiliary.tp_vlan_tci),
        ));
    }
    None
}

fn index(namespace: &Namespace, name: &'static str) -> u32 {
    namespace.block_on(move || async move {
        by_name(&netlink::open().unwrap(), name)
            .await
            .unwrap()
            .index
    })
}

#[test]
fn frames_arrive_as_they_were_sent() {
    let Some((here, there)) = pair() else { return };
    let ifindex = index(&here, "eth0");
    let listener = listen(&there);
    // Opened in the namespace, used from outside it.
    let socket = here.run(|| PacketSocket::open().unwrap());
    for length in [60, 74, 590, 1514] {
        socket.send(ifindex, &frame(length, None)).unwrap();
        assert_eq!(
            receive(&listener),
            Some((frame(length, None), None)),
            "{length} bytes"
        );
    }
}

#[test]
fn a_tag_in_the_frame_is_sent_as_it_is() {
    let Some((here, there)) = pair() else { return };
    let ifindex = index(&here, "eth0");
    let listener = listen(&there);
    let socket = here.run(|| PacketSocket::open().unwrap());
    // A full frame with a tag is four bytes longer than one without.
    for length in [64, 1518] {
        let sent = frame(length, Some(42));
        socket.send(ifindex, &sent).unwrap();
        // A receiving kernel takes the tag out of the frame and keeps it beside.
        let untagged = [&sent[..12], &sent[16..]].concat();
        assert_eq!(
            receive(&listener),
            Some((untagged, Some(42))),
            "{length} bytes"
        );
    }
}

#[test]
fn the_socket_itself_receives_nothing() {
    let Some((here, there)) = pair() else { return };
    let ifindex = index(&there, "eth0");
    let (mine, theirs) = (
        here.run(|| PacketSocket::open().unwrap()),
        there.run(|| PacketSocket::open().unwrap()),
    );
    let listener = listen(&here);
    theirs.send(ifindex, &frame(60, None)).unwrap();
    assert_eq!(
        receive(&listener),
        Some((frame(60, None), None)),
        "it did arrive"
    );
    let mut byte = 0u8;
    // SAFETY: the buffer is one writable byte, and its length is given as one.
    let length = unsafe {
        libc::recv(
            mine.as_raw_fd(),
            (&raw mut byte).cast(),
            1,
            libc::MSG_DONTWAIT,
        )
    };
    assert_eq!(
        (length, Error::last_os_error().kind()),
        (-1, ErrorKind::WouldBlock)
    );
}

#[test]
fn refusals() {
    let Some((here, there)) = pair() else { return };
    let ifindex = index(&here, "eth0");
    let socket = here.run(|| PacketSocket::open().unwrap());
    let errno = |ifindex, frame: &[u8]| socket.send(ifindex, frame).unwrap_err().raw_os_error();
    assert_eq!(
        socket.send(ifindex, &[0; 13]).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    assert_eq!(errno(ifindex, &frame(1515, None)), Some(libc::EMSGSIZE));
    assert_eq!(errno(ifindex + 1000, &frame(60, None)), Some(libc::ENXIO));
    assert_eq!(errno(u32::MAX, &frame(60, None)), Some(libc::ENXIO));
    // No carrier: the device drops, and says so.
    there.ip("link set eth0 down");
    assert_eq!(errno(ifindex, &frame(60, None)), Some(libc::ENOBUFS));
    here.ip("link set eth0 down");
    assert_eq!(errno(ifindex, &frame(60, None)), Some(libc::ENETDOWN));
}
