# Of the installation, what depends on the prefix that it is given: the unit names the program and its configuration, which
# is below /etc where the prefix is the system's.
set(bin ${CMAKE_INSTALL_PREFIX}/bin)
if(CMAKE_INSTALL_PREFIX MATCHES "^/usr(/local)?$")
    set(etc /etc)
else()
    set(etc ${CMAKE_INSTALL_PREFIX}/etc)
endif()

configure_file(${service}/weir.service.in ${work}/weir.service @ONLY)
file(INSTALL ${work}/weir.service DESTINATION ${CMAKE_INSTALL_PREFIX}/lib/systemd/system)

# A configuration that is there is its operator's.
if(EXISTS "$ENV{DESTDIR}${etc}/weir/weir.yaml")
    message(STATUS "Kept: $ENV{DESTDIR}${etc}/weir/weir.yaml")
else()
    file(INSTALL ${service}/weir.yaml DESTINATION ${etc}/weir)
endif()
